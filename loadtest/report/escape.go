package report

import (
	"regexp"
	"strings"
)

// What is in a report goes into Markdown in one of three ways, as into the page: literal shows text of any content as it is, so that
// no server can say anything that becomes markup; code does so in a code span; markdownProse leaves `code` and **strong** words.

// markup are the characters that could begin markup within a line. "<" becomes an entity, because what reads Markdown and knows
// no HTML escapes, of which there are many, then finds no element either.
var markup = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", "&lt;", "~", `\~`, "\r", "", "\n", " ")

// entity is what could be one.
var entity = regexp.MustCompile(`&([#a-zA-Z])`)

// literal is text of any content, on one line.
func literal(text string) string { return markup.Replace(entity.ReplaceAllString(text, `&amp;$1`)) }

// markdownProse is prose, the same way as on the page.
func markdownProse(text string) string {
	var b strings.Builder
	for i, part := range pairs(text, "`") {
		if i%2 == 1 {
			b.WriteString(code(part))
			continue
		}
		for j, part := range pairs(part, "**") {
			if j%2 == 1 {
				b.WriteString("**" + literal(part) + "**")
				continue
			}
			b.WriteString(literal(part))
		}
	}
	return b.String()
}

// code is text of any content as a code span of Markdown.
func code(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if text == "" {
		return ""
	}
	fence := "`"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	if strings.HasPrefix(text, "`") || strings.HasSuffix(text, "`") {
		return fence + " " + text + " " + fence
	}
	return fence + text + fence
}
