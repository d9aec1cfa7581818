package report

import (
	"encoding/xml"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
)

// node is an element of an SVG picture. It is written by encoding/xml, which escapes what it holds.
//
// Colours and sizes are attributes, not styles: a server that forbids inline styles leaves the pictures whole. Classes
// are there for the style sheet to choose other colours, of a dark page for one.
type node struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []*node
}

// element makes a node with attributes, as set takes them.
func element(name string, attributes ...any) *node {
	return (&node{XMLName: xml.Name{Local: name}}).set(attributes...)
}

// set gives a node attributes, names and values by turns, instead of those it has by the same names. Numbers are written with two decimals at most.
func (n *node) set(attributes ...any) *node {
	for i := 0; i+1 < len(attributes); i += 2 {
		value := fmt.Sprint(attributes[i+1])
		if v, is := attributes[i+1].(float64); is {
			value = strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
		}
		attribute := xml.Attr{Name: xml.Name{Local: fmt.Sprint(attributes[i])}, Value: value}
		if at := slices.IndexFunc(n.Attrs, func(a xml.Attr) bool { return a.Name == attribute.Name }); at >= 0 {
			n.Attrs[at] = attribute
			continue
		}
		n.Attrs = append(n.Attrs, attribute)
	}
	return n
}

// add puts children at the end of a node, and returns it.
func (n *node) add(children ...*node) *node {
	n.Children = append(n.Children, children...)
	return n
}

// line adds a straight line.
func (n *node) line(class string, x1, y1, x2, y2 float64, stroke string) *node {
	l := element("line", "class", class, "x1", x1, "y1", y1, "x2", x2, "y2", y2, "stroke", stroke)
	n.add(l)
	return l
}

// text adds text that begins, ends or has its middle at x, as anchor says.
func (n *node) text(class, anchor string, x, y, size float64, text string) *node {
	t := element("text", "class", class, "x", x, "y", y, "font-size", size, "text-anchor", anchor, "fill", ink)
	t.Text = text
	n.add(t)
	return t
}

// tip has an element say something when it is pointed at.
func (n *node) tip(text string) *node {
	title := element("title")
	title.Text = text
	return n.add(title)
}

// Neutral colours, where the style sheet does not choose others.
const (
	ink   = "#444444"
	faint = "#d5d5d5"
)

// picture is an SVG whose width is fixed in units of about a pixel, so that its text can be read on a telephone.
func picture(id, title, description string, height float64) *node {
	p := element("svg", "xmlns", "http://www.w3.org/2000/svg", "viewBox", fmt.Sprintf("0 0 %d %g", chartWidth, math.Ceil(height)),
		"width", chartWidth, "height", math.Ceil(height), "role", "img", "aria-labelledby", id+"-title "+id+"-desc", "font-family", "system-ui, sans-serif")
	t, d := element("title", "id", id+"-title"), element("desc", "id", id+"-desc")
	t.Text, d.Text = title, description
	return p.add(t, d)
}

// html is the picture for a page.
func (n *node) html() (template.HTML, error) {
	b, err := xml.Marshal(n)
	return template.HTML(b), err
}
