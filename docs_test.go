package soniq_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading      = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	fence        = regexp.MustCompile("(?ms)^```.*?^```")
	notInAnchor  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	codeSpan     = regexp.MustCompile("`([a-z][\\w.-]*(?:/[\\w.-]*)+)`")
)

// pages are README, CHANGELOG and all of docs.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	clients, err := filepath.Glob("docs/clients/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found = append(found, clients...)
	pages := map[string]string{}
	for _, path := range append(found, "README.md", "CHANGELOG.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pages[path] = string(text)
	}
	return pages
}

// anchors are those of a page's headings, as GitHub makes them.
func anchors(page string) map[string]bool {
	anchors := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		text := notInAnchor.ReplaceAllString(strings.ToLower(h[1]), "")
		anchors[strings.ReplaceAll(text, " ", "-")] = true
	}
	return anchors
}

// Each link of a page leads to a file, and to a heading in it.
func TestDocs_links_leadSomewhere(t *testing.T) {
	t.Parallel()
	all := pages(t)
	seen := 0
	for path, text := range all {
		for _, link := range markdownLink.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			target, anchor, _ := strings.Cut(link[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			seen++
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: the link %s leads nowhere", path, link[1])
			} else if anchor != "" && !anchors(all[file])[anchor] {
				t.Errorf("%s: the link %s leads to no heading", path, link[1])
			}
		}
	}
	if seen < 40 {
		t.Errorf("only %d links were seen", seen)
	}
}

// docs/README.md lists each page.
func TestDocs_index_isComplete(t *testing.T) {
	t.Parallel()
	index, err := os.ReadFile("docs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for path := range pages(t) {
		name := filepath.Base(path)
		if filepath.Dir(path) == "docs" && name != "README.md" && !strings.Contains(string(index), "]("+name+")") {
			t.Errorf("docs/README.md does not list %s", name)
		}
	}
}

// What docs/architecture.md calls a file or a folder is one, and it names each package.
func TestArchitecture_namesWhatIsThere(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, span := range codeSpan.FindAllStringSubmatch(string(text), -1) {
		path := strings.TrimSuffix(span[1], "/")
		named[path] = true
		if _, err := os.Stat(path); err != nil {
			t.Errorf("docs/architecture.md names %s, which is not there", span[1])
		}
	}
	for _, file := range sources(t) {
		folder := filepath.Dir(file.path)
		if folder == "." || strings.HasPrefix(folder, "docs") || named[folder] {
			continue
		}
		named[folder] = true
		t.Errorf("docs/architecture.md doesn't name the package %s", folder)
	}
}

// Whoever looks at Soniq for the first time reads the README to its end.
func TestReadme_isShort(t *testing.T) {
	t.Parallel()
	const most = 180
	if lines := strings.Count(pages(t)["README.md"], "\n"); lines >= most {
		t.Errorf("README.md has %d lines; under %d were promised", lines, most)
	}
}
