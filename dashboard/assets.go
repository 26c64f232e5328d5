package dashboard

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:embed static
var staticFiles embed.FS

//go:embed templates
var templateFiles embed.FS

// assetVersion is a part of the URL of each asset: browsers keep them until a release
// changes one.
var assetVersion = sync.OnceValue(func() string {
	hash := sha256.New()
	_ = fs.WalkDir(staticFiles, "static", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			content, _ := staticFiles.ReadFile(name) // it is embedded
			hash.Write([]byte(name))
			hash.Write(content)
		}
		return err
	})
	return hex.EncodeToString(hash.Sum(nil))[:12]
})

// serveAsset serves a file to anybody: there is nothing in them that is not in the program.
func serveAsset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	content, err := staticFiles.ReadFile("static/" + name)
	if err != nil || strings.Contains(name, "/") {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	if r.PathValue("version") == assetVersion() {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	_, _ = w.Write(content)
}

// templates are the pages by name: each with the layout around it.
type templates map[string]*template.Template

// sharedFile has the layout, and what several pages show.
const sharedFile = "templates/shared.html"

// parseTemplates reads all of them.
func parseTemplates(functions template.FuncMap) (templates, error) {
	shared, err := template.New("layout").Funcs(functions).ParseFS(templateFiles, sharedFile)
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, err
	}
	all := templates{}
	for _, file := range files {
		if file == sharedFile {
			continue
		}
		t, err := shared.Clone()
		if err == nil {
			t, err = t.ParseFS(templateFiles, file)
		}
		if err != nil {
			return nil, err
		}
		all[strings.TrimSuffix(path.Base(file), ".html")] = t
	}
	return all, nil
}

func (t templates) execute(w io.Writer, name string, f frame) error {
	return t[name].ExecuteTemplate(w, "layout", f)
}
