//! The configuration reference, `docs/configuration.md`, generated from the schema that the program prints.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use crate::paths::workspace_root;
use crate::program::neurobridge;

const HEAD: &str = "\
<!-- Made by `cargo xtask docs` from `neurobridge schema`; a test compares. -->
# Configuration
This page lists every key with its type, its default and its environment variable. [neurobridge.toml](../config/neurobridge.toml) contains all
keys in one file to start from, and [examples](../config/examples) contains small configurations. `neurobridge check -c FILE` reports all errors
of a file at once, each with its line; `neurobridge schema` prints the JSON Schema, from which this page is generated, for editors.

The configuration file is the argument of `-c`, otherwise `neurobridge.toml` in the current folder, otherwise `/etc/neurobridge/neurobridge.toml`.
Environment variables override the file. In the names below, `NAME` stands for the name of a source or sink. A variable for a text contains the text
without quotes (`007` stays `007`), a variable for a list contains the whole list (`[\"*_image\"]`), and each key of a table has its own variable.
A key such as `feed.open[].send` is one of each table in a list.
Times are written as `250ms`, `5s`, `1h 30m` or `7d`, and sizes as `512 KiB`, `64 MiB` or `10 GiB`. A *secret* is a text that is never printed; the same
key with the suffix `_file` names a file with the secret, which is read again at each connection. A key without a default is optional unless it
is marked as *needed*.
";

/// The type of a filter in the tables, with a link to the section [`CONDITIONS`].
const CONDITIONS_OF_FIELDS: &str = "table of [conditions](#conditions)";

const CONDITIONS: &str = r#"
## Conditions
A filter is a table of paths below `data`, each with a condition. An event passes the filter if all conditions hold. This filter passes adults
that belong to one of two groups, unless the picture failed the liveness test:

```toml
[event]
filter = { age = { at_least = 18 }, groups = { any = ["vip", "staff"] }, liveness = { not = "failed" } }
```

| condition | holds for |
|---|---|
| `"new"`, `7`, `true` | this value |
| `["new", "exact"]` | one of these values |
| `{ equals = 7 }`, `{ one_of = [7, 8] }` | the same conditions as operators, for a table with several operators |
| `{ present = true }` | any value but null; with `false`, a field that is missing or null |
| `{ at_least = 18 }`, `{ below = 65 }` | a number or a time that is at least the bound, or less than it; both together are a range: `{ at_least = 18, below = 65 }` |
| `{ prefix = "orders." }` | a text that begins with this text |
| `{ any = "vip" }` | an array with at least one element for which the condition holds |
| `{ not = ["junk", "nm"] }` | a value for which the condition does not hold, also a missing field |

- **Several conditions** in one table must all hold.
- **Values** are compared as text, as the feed writes them: `1` and `"1"` are equal, `1` and `1.0` are not. An object, an array and null
  are not equal to any value.
- **Numbers** are compared exactly, also beyond 2⁵³, whether the feed sends them as numbers or as texts. A **time** is written in quotes
  (`"2026-01-31T12:00:00Z"`); a time of the feed without an offset is in UTC.
- **Elements** that are objects are compared by their `name`, because the groups of a person may be names or objects with a name. Other fields
  of an element are named in a table of their own: `{ any = { role = "guard", level = { at_least = 3 } } }`.
- **Paths** may contain the index of an element (`"groups.0" = "vip"`), and with `$.` they begin at the frame: `"$.id" = 7`.
- **Nested fields** are written as a path, `"space.id" = 1`, or as tables, `space = { id = 1 }`. A table all of whose keys are operators is a condition;
  a table without any operator contains paths; a mixture is an error. A field that has the name of an operator needs its whole path in quotes:
  `"phone.prefix" = ["+44"]`.
"#;

/// The placeholder for the index of a table in a list.
const LIST: &str = "[]";

/// The schema definition that explains `{field}` in templates.
const TEMPLATE: &str = "Template";

/// Returns the path of the reference.
pub fn path() -> PathBuf {
    workspace_root().join("docs/configuration.md")
}

/// Generates the reference from the program's schema.
///
/// # Errors
/// Returns an error if the program fails, or if its schema has an unexpected form.
pub fn make() -> Result<String> {
    let output = Command::new(neurobridge())
        .arg("schema")
        .output()
        .context("starting the program")?;
    ensure!(
        output.status.success(),
        "`neurobridge schema` ended with {}",
        output.status
    );
    let schema: Value = serde_json::from_slice(&output.stdout).context("the schema")?;
    let mut text = HEAD.to_owned();
    let template = describe(&schema["$defs"][TEMPLATE]);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\nA *template*: {template}");
    let reference = Reference { schema: &schema };
    reference.write_top(&mut text)?;
    text.push_str(CONDITIONS);
    Ok(text)
}

struct Reference<'a> {
    schema: &'a Value,
}

/// A row of a table.
struct Row {
    key: String,
    kind: String,
    default: String,
    description: String,
}

impl<'a> Reference<'a> {
    fn write_top(&self, text: &mut String) -> Result<()> {
        let top = properties(self.schema)?;
        let is_table =
            |value: &&Value| self.tables(value).next().is_some() || value["additionalProperties"].is_object();
        let mut rows = Vec::new();
        for (key, value) in top.iter().filter(|(_, value)| !is_table(value)) {
            self.push_rows("", key, value, self.schema, &mut rows);
        }
        write_section(text, "At the top of the file", "", "NEUROBRIDGE__", &rows);
        for (key, value) in top.iter().filter(|(_, value)| is_table(value)) {
            let (title, prefix, value) = match &value["additionalProperties"] {
                inner @ Value::Object(_) => (
                    format!("[{key}.NAME]"),
                    format!("NEUROBRIDGE__{}__NAME__", key.to_uppercase()),
                    inner,
                ),
                _ => (
                    format!("[{key}]"),
                    format!("NEUROBRIDGE__{}__", key.to_uppercase()),
                    value,
                ),
            };
            let tables: Vec<_> = self.tables(value).collect();
            for table in &tables {
                let mut rows = Vec::new();
                for (key, value) in properties(table)? {
                    self.push_rows("", key, value, table, &mut rows);
                }
                let description = match type_of(table) {
                    Some(_) => describe(table),
                    None => first(&[describe(&top[key]), describe(table)]),
                };
                write_section(text, &heading(&title, table), &description, &prefix, &rows);
            }
            for table in tables {
                self.write_inner(&title, &prefix, table, text)?;
            }
        }
        Ok(())
    }

    /// Writes a section for each type of a table that is a key of another table.
    fn write_inner(&self, title: &str, prefix: &str, table: &'a Value, text: &mut String) -> Result<()> {
        for (key, value) in properties(table)? {
            let title = format!("{}.{key}]", title.trim_end_matches(']'));
            let prefix = format!("{prefix}{}__", key.to_uppercase());
            for inner in self.typed_tables(value) {
                let mut rows = Vec::new();
                for (key, value) in properties(inner)? {
                    self.push_rows("", key, value, inner, &mut rows);
                }
                write_section(text, &heading(&title, inner), &describe(inner), &prefix, &rows);
            }
        }
        Ok(())
    }

    /// Returns the tables that a value may be, if its key `type` selects one of them.
    fn typed_tables(&self, value: &'a Value) -> Vec<&'a Value> {
        let tables: Vec<_> = self.tables(value).collect();
        let is_selected = tables.len() > 1 && tables.iter().all(|table| type_of(table).is_some());
        if is_selected { tables } else { Vec::new() }
    }

    /// Returns the tables that a value may be: the value itself, a referenced definition, or its alternatives.
    fn tables(&self, value: &'a Value) -> Box<dyn Iterator<Item = &'a Value> + 'a> {
        let value = self.resolve(value);
        if value["properties"].is_object() {
            return Box::new(std::iter::once(value));
        }
        let schema = self.schema;
        let alternatives = ["oneOf", "anyOf"]
            .into_iter()
            .filter_map(|key| value[key].as_array());
        Box::new(
            alternatives
                .flatten()
                .flat_map(move |inner| Reference { schema }.tables(inner)),
        )
    }

    fn resolve(&self, value: &'a Value) -> &'a Value {
        let name = value["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        name.map_or(value, |name| &self.schema["$defs"][name])
    }

    /// Adds the row of a key, or the rows of the keys below it.
    fn push_rows(&self, above: &str, key: &str, value: &'a Value, table: &'a Value, rows: &mut Vec<Row>) {
        let key_here = format!("{above}{key}");
        let is_needed = table["required"]
            .as_array()
            .is_some_and(|keys| keys.iter().any(|needed| needed == key));
        let inner: Vec<_> = self.tables(value).collect();
        if let [inner] = inner[..] {
            rows.push(Row {
                kind: "table".to_owned(),
                default: if is_needed {
                    "*needed*".to_owned()
                } else {
                    String::new()
                },
                description: first(&[describe(value), describe(inner)]),
                key: key_here.clone(),
            });
            for (key, value) in properties(inner).into_iter().flatten() {
                self.push_rows(&format!("{key_here}."), key, value, inner, rows);
            }
            return;
        }
        let (kind, description) = if self.typed_tables(value).is_empty() {
            self.kind(value)
        } else {
            (
                "table".to_owned(),
                "The key `type` selects its other keys.".to_owned(),
            )
        };
        let default = match &value["default"] {
            Value::Null if is_needed => "*needed*".to_owned(),
            Value::Null => String::new(),
            Value::String(text) => format!("`\"{text}\"`"),
            other => format!("`{other}`"),
        };
        let list = key_here.clone();
        rows.push(Row {
            key: key_here,
            kind,
            default,
            description: join(&[describe(value), description]),
        });
        let items = &self.resolve(value)["items"];
        if let [item] = self.tables(items).collect::<Vec<_>>()[..] {
            for (key, value) in properties(item).into_iter().flatten() {
                self.push_rows(&format!("{list}{LIST}."), key, value, item, rows);
            }
        }
    }

    /// Returns the type of a value in one word, and the meaning of its values if there are only a few.
    fn kind(&self, value: &'a Value) -> (String, String) {
        let nothing = String::new;
        if let Some(only) = value["const"].as_str() {
            return (format!("`\"{only}\"`"), nothing());
        }
        match value["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            Some("ByteSize") => return ("size".to_owned(), nothing()),
            Some("Template") => return ("template".to_owned(), nothing()),
            Some("Filter") => return (CONDITIONS_OF_FIELDS.to_owned(), nothing()),
            _ => {}
        }
        let value = self.resolve(value);
        let alternatives = ["oneOf", "anyOf"]
            .into_iter()
            .find_map(|key| value[key].as_array());
        if let Some(alternatives) = alternatives {
            let inner = alternatives.iter().filter(|inner| inner["type"] != "null");
            let inner: Vec<_> = inner.collect();
            if let [only] = inner[..] {
                return self.kind(only);
            }
            let words: Vec<_> = inner.iter().filter_map(|inner| inner["const"].as_str()).collect();
            if words.len() == inner.len() {
                let kinds: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
                let mut description = String::new();
                for inner in &inner {
                    let _ = write!(
                        description,
                        " `{}`: {}",
                        inner["const"].as_str().unwrap_or_default(),
                        describe(inner)
                    );
                }
                return (kinds.join(" or "), description.trim().to_owned());
            }
        }
        let word = match &value["type"] {
            Value::Array(types) => types
                .iter()
                .find_map(|kind| kind.as_str().filter(|kind| *kind != "null")),
            kind => kind.as_str(),
        };
        let kind = match (word, value["format"].as_str()) {
            (_, Some("password")) => "secret",
            (_, Some("duration")) => "time",
            (Some("string"), _)
                if ["/default", "/examples/0"].iter().any(|at| {
                    let text = value.pointer(at).and_then(Value::as_str);
                    text.is_some_and(is_time)
                }) =>
            {
                "time"
            }
            (Some("string"), _) => "text",
            (Some("integer"), _) => "number",
            (Some("boolean"), _) => "`true` or `false`",
            (Some("array"), _) => "list",
            (Some("object"), _) => "table",
            _ => "text",
        };
        (kind.to_owned(), nothing())
    }
}

/// Returns whether a default value is a duration: digits followed by a unit.
fn is_time(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    unit.len() < text.len() && ["ms", "s", "m", "h", "d"].contains(&unit)
}

/// Returns the value of the key `type` that selects this table.
fn type_of(table: &Value) -> Option<&str> {
    table["properties"]["type"]["const"].as_str()
}

/// Returns the heading of a table.
fn heading(title: &str, table: &Value) -> String {
    match type_of(table) {
        Some(kind) => format!("`{title}` with `type = \"{kind}\"`"),
        None => format!("`{title}`"),
    }
}

fn properties(table: &Value) -> Result<&Map<String, Value>> {
    table["properties"]
        .as_object()
        .context("a table without properties")
}

/// Returns the description of a value in one line.
fn describe(value: &Value) -> String {
    let words = value["description"].as_str().unwrap_or_default();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn first(texts: &[String]) -> String {
    texts
        .iter()
        .find(|text| !text.is_empty())
        .cloned()
        .unwrap_or_default()
}

fn join(texts: &[String]) -> String {
    let texts: Vec<&str> = texts
        .iter()
        .map(String::as_str)
        .filter(|text| !text.is_empty())
        .collect();
    texts.join(" ")
}

fn write_section(text: &mut String, title: &str, description: &str, prefix: &str, rows: &[Row]) {
    let _ = writeln!(text, "\n## {title}");
    if !description.is_empty() {
        let _ = writeln!(text, "{description}\n");
    }
    let _ = writeln!(
        text,
        "| key | type | default | description | environment variable |\n|---|---|---|---|---|"
    );
    for Row {
        key,
        kind,
        default,
        description,
    } in rows
    {
        let variable = match kind.as_str() {
            "table" | CONDITIONS_OF_FIELDS => String::new(),
            _ if key.contains(LIST) => String::new(),
            _ => format!("`{prefix}{}`", key.to_uppercase().replace('.', "__")),
        };
        let description = description.replace('|', "\\|");
        let _ = writeln!(
            text,
            "| `{key}` | {kind} | {default} | {description} | {variable} |"
        );
    }
}
