package cli

// What tests of the whole grammar look at.
type Grammar = grammar

// Groups are the headings of the help.
var Groups = groups

// CheckOnce is what refuses a flag that is given twice.
var CheckOnce = checkOnce

// CheckFilled is what refuses a flag whose value is empty.
var CheckFilled = checkFilled

// TopVerbs and NounVerbs are the hints for verbs that people guess.
var TopVerbs, NounVerbs = topVerbs, nounVerbs
