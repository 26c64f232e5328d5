package redact

import "testing"

// Secrets by their name in the forms of other programs: pages of errors, forms,
// YAML, XML and SQL.
func TestText_formsOfOtherPrograms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		// Escaped as a whole.
		`<pre>{&quot;password&quot;: &quot;x9&quot;, &quot;n&quot;: 1}</pre>`: `<pre>{&quot;password&quot;: &quot;[redacted]&quot;, &quot;n&quot;: 1}</pre>`,
		`{&#x27;password&#x27;: &#x27;x9&#x27;}`:                              `{&#x27;password&#x27;: &#x27;[redacted]&#x27;}`,
		"password&#61;x9":                                                     "password&#61;[redacted]",
		"payload=%7B%22password%22%3A%22x9%22%2C%22n%22%3A1%7D":               "payload=%7B%22password%22%3A%22[redacted]%22%2C%22n%22%3A1%7D",
		"next=%252Fa%253Fx%253D1%2526password%253Dx9":                         "next=%252Fa%253Fx%253D1%2526password%253D[redacted]",
		"token=x9&payload=%22password%22%3A%22x9%22":                          "token=[redacted]&payload=%22password%22%3A%22[redacted]%22",
		"100%25 of &lt;b&gt; are &quot;tokens&quot; at %2Fa%3Fpage%3D2":       "100%25 of &lt;b&gt; are &quot;tokens&quot; at %2Fa%3Fpage%3D2",
		// Forms.
		"user%5Bpassword%5D=x9&user%5Bname%5D=ann": "user%5Bpassword%5D=[redacted]&user%5Bname%5D=ann",
		"a=1&password[]=x9":                        "a=1&password[]=[redacted]",
		"password[0]=x9":                           "password[0]=[redacted]",
		"Content-Disposition: form-data; name=\"password\"\r\n\r\nx9 y\r\n--b": "Content-Disposition: form-data; name=\"password\"\r\n\r\n[redacted]\r\n--b",
		"Content-Disposition: form-data; name=\"note\"\r\n\r\nx9\r\n--b":       "Content-Disposition: form-data; name=\"note\"\r\n\r\nx9\r\n--b",
		// YAML.
		"a:\n  password: |\n    x9\n\n    y9\n  user: ann": "a:\n  password: |\n    [redacted]\n  user: ann",
		"- token: >-\n    x9\n- user: ann":                 "- token: >-\n    [redacted]\n- user: ann",
		"password: |\nuser: ann":                           "password: [redacted]\nuser: ann",
		// XML.
		`<Password type="string">x9</Password>`:                    `<Password type="string">[redacted]</Password>`,
		`<wsse:Password>x9</wsse:Password>`:                        `<wsse:Password>[redacted]</wsse:Password>`,
		`<password><![CDATA[x9<y]]></password>`:                    `<password><![CDATA[[redacted]]]></password>`,
		`<entry key="password">x9</entry><entry key="a">b</entry>`: `<entry key="password">[redacted]</entry><entry key="a">b</entry>`,
		`<setting name='ApiKey'>x9</setting>`:                      `<setting name='ApiKey'>[redacted]</setting>`,
		`<user name="ann"/>text<note>5 <b>of</b></note>`:           `<user name="ann"/>text<note>5 <b>of</b></note>`,
		// SQL, and commands.
		"SET PASSWORD FOR 'a' = PASSWORD('x9')":  "SET PASSWORD FOR 'a' = PASSWORD('[redacted]')",
		"create user a encrypted password E'x9'": "create user a encrypted password E'[redacted]'",
		"curl --user=ann:x9 https://e":           "curl --user=ann:[redacted] https://e",
		"ps --user=ann -x":                       "ps --user=ann -x",
		// What operators read.
		"jwt: token is malformed: token contains an invalid number of segments":    "jwt: token is malformed: token contains an invalid number of segments",
		"password: ensure this value has at least 8 characters":                    "password: ensure this value has at least 8 characters",
		`sql: Scan error on column index 2, name "password_hash": converting NULL`: `sql: Scan error on column index 2, name "password_hash": converting NULL`,
		"POSTGRES_PASSWORD_FILE=/run/secrets/db":                                   "POSTGRES_PASSWORD_FILE=/run/secrets/db",
	} {
		got := Text(text)
		if got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
		if again := Text(got); again != got {
			t.Errorf("%q became %q", got, again)
		}
	}
}
