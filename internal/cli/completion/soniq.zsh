#compdef soniq
# Completion of soniq for zsh. For this shell: source <(soniq completion zsh)
_soniq() {
  local line
  local -a found
  for line in "${(@f)$("${words[1]}" __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
    if [[ -n $line ]]; then
      found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    fi
  done
  if (( $#found )); then
    _describe soniq found
  else
    _files
  fi
}
if [[ $funcstack[1] == _soniq ]]; then
  _soniq "$@"
else
  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
  compdef _soniq soniq
fi
