// Package dashboard is the web page of Soniq: a [net/http.Handler] that shows the dead
// letters and what is around them, and lets people act who may.
//
//	d, err := dashboard.New(pool, dashboard.Config{
//		BasePath:     "/admin/soniq",
//		Authenticate: whoIs, // your own: who sends a request, and what may they do?
//	})
//	if err != nil {
//		return err
//	}
//	mux.Handle("/admin/soniq/", d.Handler())
//	go d.Run(ctx) // feeds the open pages; without it they show a moment
//
// Pages are made by the server, from html/template and embedded files. They work without
// JavaScript; with it they are live. Nothing is fetched from elsewhere.
//
// # Adding a page
//
// A page is a line in [Dashboard.pages], a method that serves it, and a template:
//
//	{"GET /workers", see, d.workers},
//
//	func (d *Dashboard) workers(v *visit) error {
//		t, err := d.team(v.Context())
//		if err != nil {
//			return err // the page of the error: 404, 503 ... by what it is
//		}
//		return v.show("workers", view{Title: "Workers", Nav: "/workers", Data: t})
//	}
//
// The template is templates/workers.html and defines "content". Its dot is a [frame]: .Data
// is what the method gave, .User who looks, and .May.Act whether they may act. Functions
// are in functions.go: link for a path within the dashboard, text for what a job wrote,
// when for a time, count for a number. An entry in navigation puts the page at the top.
//
// The content security policy lets no inline script or style through: give elements
// classes, and SVG its presentation attributes. A page that changes something is served
// under POST, needs the right act, and answers with [visit.redirect]; a form needs no token,
// because requests from other sites are refused before they reach it.
//
// Whatever a page writes passes a last layer that makes control characters and those that
// change the direction of text visible, as \u202e: no page can forget it.
package dashboard
