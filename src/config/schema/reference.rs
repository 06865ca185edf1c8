//! Makes a page of the schema: a section for each mapping, a table of its keys.

use std::fmt::Write as _;

use serde_yaml::Value;

use crate::config::places::join;

const PREAMBLE: &str = "\
# Configuration

All keys of the proxy's YAML file. *Made from `src/config/schema.json` by
`gpu-bridge schema --markdown > docs/configuration.md`; change it there.*

`gpu-bridge check FILE` says what is wrong with a file, with line and column, and what is suspicious.
Unknown keys are errors. [`config/gpu-bridge.yaml`](../config/gpu-bridge.yaml) shows every key,
[`config/minimal.yaml`](../config/minimal.yaml) the least that works,
[`config/tls.yaml`](../config/tls.yaml) TLS on both sides.

Editors that know JSON Schema complete and check the keys while you type:
`gpu-bridge schema > gpu-bridge.schema.json`, then for the YAML language server, as the file's first line:

```yaml
# yaml-language-server: $schema=gpu-bridge.schema.json
```

- `${NAME}` in a text is replaced by the environment variable `NAME`, which must be set; `$${` stands
  for a literal `${`. In the place of a number, or of true or false, the variable holds that.
- A duration has a unit and is from 1ms to 24h: `500ms`, `5s`, `1m 30s`.
- A size has a unit or is a number of bytes: `64KiB`, `32MiB`, `1GiB`.
- Relative paths start from the folder of the configuration.
";

/// The whole page.
pub(super) fn page(schema: &Value) -> String {
    let mut page = PREAMBLE.to_owned();
    let schema = Schema(schema);
    schema.mapping(&mut page, "", schema.0);
    page
}

struct Schema<'a>(&'a Value);

impl<'a> Schema<'a> {
    /// The keys of the mapping at `path`, then the mappings in it.
    fn mapping(&self, page: &mut String, path: &str, mapping: &'a Value) {
        let title = if path.is_empty() {
            "## The file".to_owned()
        } else {
            format!("## `{path}`")
        };
        let description = text(mapping, "description");
        let head = "| key | what it takes | default | meaning |\n| --- | --- | --- | --- |";
        // Writing to a string can't fail.
        let _ = write!(page, "\n{title}\n\n{description}\n\n{head}\n");
        let keys = mapping["properties"].as_mapping();
        let keys = || {
            let named = |(key, value): (&'a Value, &'a Value)| Some((key.as_str()?, value));
            keys.into_iter().flatten().filter_map(named)
        };
        for (key, value) in keys() {
            page.push_str(&self.row(key, value, is_required(mapping, key)));
        }
        for (key, value) in keys() {
            let path = join(path, key);
            if value["properties"].is_mapping() {
                self.mapping(page, &path, value);
            } else if value["items"]["properties"].is_mapping() {
                self.mapping(page, &format!("{path}[]"), &value["items"]);
            }
        }
    }

    fn row(&self, key: &str, value: &Value, required: bool) -> String {
        let default = if required {
            "**required**".to_owned()
        } else {
            code(&value["default"]).unwrap_or_default()
        };
        let takes = self.takes(value);
        format!(
            "| `{key}` | {takes} | {default} | {}{} |\n",
            text(value, "description"),
            example(value)
        )
    }

    /// What may be written.
    fn takes(&self, value: &Value) -> String {
        let definition = self.definition(value);
        let own = |key: &str| match &value[key] {
            Value::Null => definition[key].clone(),
            own => own.clone(),
        };
        if let Some(choices) = value["enum"].as_sequence() {
            let choices = choices.iter().filter_map(Value::as_str);
            return choices
                .map(|choice| format!("`{choice}`"))
                .collect::<Vec<_>>()
                .join(", ");
        }
        let kind = own("type");
        // What may stand in a variable, too, is of several; the first is what the variable holds.
        let first = kind[0].as_str().filter(|_| own("title").is_null());
        match kind.as_str().or(first) {
            Some("integer") => whole_number(own("minimum").as_u64(), own("maximum").as_u64()),
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("object") if value["properties"].is_mapping() => "a mapping, see below".to_owned(),
            Some("array") if value["items"]["properties"].is_mapping() => {
                "a list, see below".to_owned()
            }
            _ => own("title").as_str().unwrap_or("text").to_owned(),
        }
    }

    /// What the value's `$ref` stands for.
    fn definition(&self, value: &Value) -> &Value {
        let name = value["$ref"]
            .as_str()
            .and_then(|path| path.strip_prefix("#/$defs/"));
        name.map_or(&Value::Null, |name| &self.0["$defs"][name])
    }
}

fn whole_number(least: Option<u64>, most: Option<u64>) -> String {
    let least = least.unwrap_or(0);
    match most {
        Some(most) if most < u64::from(u32::MAX) => format!("{least} to {most}"),
        _ => format!("a whole number from {least}"),
    }
}

fn is_required(mapping: &Value, key: &str) -> bool {
    let required = mapping["required"].as_sequence();
    required.is_some_and(|keys| keys.iter().any(|required| required == key))
}

fn example(value: &Value) -> String {
    if !value["enum"].is_null() {
        return String::new();
    }
    code(&value["examples"][0]).map_or_else(String::new, |code| format!(" For example {code}."))
}

/// A value as it is written; JSON is YAML.
fn code(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(format!("`{text}`")),
        other => Some(format!("`{}`", serde_json::to_string(other).ok()?)),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
