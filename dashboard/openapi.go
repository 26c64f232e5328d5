package dashboard

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

type object = map[string]any

// describeAPI is the OpenAPI document of the endpoints. Its schemas are made of the types that
// they read and write.
func describeAPI(base string, endpoints []endpoint) object {
	paths := object{}
	for _, e := range endpoints {
		method, path := e.split()
		at, _ := paths["/"+path].(object)
		if at == nil {
			at = object{}
			paths["/"+path] = at
		}
		at[strings.ToLower(method)] = e.describe(method, path)
	}
	return object{
		"openapi": "3.1.0",
		"info":    object{"title": "Soniq dashboard", "version": "1", "description": "Secrets are hidden, but in the answer to reveal. Errors have the fields error and detail."},
		"servers": []any{object{"url": base + strings.TrimSuffix(apiPrefix, "/")}},
		"paths":   paths,
		"components": object{
			"securitySchemes": object{"key": object{"type": "http", "scheme": "bearer"}},
			"schemas":         object{"Problem": schemaOf(reflect.TypeFor[problem]())},
		},
		"security": []any{object{"key": []any{}}},
	}
}

// problems are the errors that an endpoint may answer with.
var problems = []int{
	http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
	http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable,
}

func (e endpoint) describe(method, path string) object {
	content := func(schema object) object { return object{"application/json": object{"schema": schema}} }
	answers := object{"200": object{"description": "OK", "content": content(schemaOf(reflect.TypeOf(e.answer)))}}
	for _, status := range problems {
		answers[strconv.Itoa(status)] = object{"description": http.StatusText(status), "content": content(object{"$ref": "#/components/schemas/Problem"})}
	}
	parameters := []any{}
	if strings.Contains(path, "{id}") {
		parameters = append(parameters, object{"name": "id", "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	if e.filtered {
		for _, name := range append(filterNames[:len(filterNames):len(filterNames)], "after", "all") {
			parameters = append(parameters, object{"name": name, "in": "query", "schema": object{"type": "array", "items": object{"type": "string"}}})
		}
	}
	described := object{
		"operationId": strings.ToLower(method) + strings.NewReplacer("/", "_", "{", "", "}", "", "-", "_").Replace("_"+path),
		"summary":     e.summary, "x-soniq-right": map[right]string{see: "see", act: "act", reveal: "reveal"}[e.needs],
		"parameters": parameters, "responses": answers,
	}
	if e.body != nil {
		described["requestBody"] = object{"content": content(schemaOf(reflect.TypeOf(e.body)))}
	}
	return described
}

// schemaOf is the schema of a type's JSON.
func schemaOf(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[uuid.UUID]():
		return object{"type": "string", "format": "uuid"}
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return object{"anyOf": []any{schemaOf(t.Elem()), object{"type": "null"}}}
	case reflect.Slice:
		return object{"type": []any{"array", "null"}, "items": schemaOf(t.Elem())}
	case reflect.Map:
		return object{"type": []any{"object", "null"}, "additionalProperties": schemaOf(t.Elem())}
	case reflect.Struct:
		properties, required := object{}, []any{}
		addFields(t, properties, &required)
		return object{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.String:
		return object{"type": "string"}
	default:
		return object{"type": "integer"}
	}
}

func addFields(t reflect.Type, properties object, required *[]any) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			addFields(f.Type, properties, required)
		case f.IsExported() && name != "-" && name != "":
			properties[name] = schemaOf(f.Type)
			if !strings.Contains(options, "omit") {
				*required = append(*required, name)
			}
		}
	}
}
