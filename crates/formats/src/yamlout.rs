//! A YAML printer for JSON values: block style, two blanks, keys in the order given. For previews and manifests; what
//! could be read as anything but the text meant is quoted as JSON, which YAML 1.2 reads the same.

use serde_json::Value;

/// The value as a YAML document, with a line feed at its end.
pub fn print(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut out),
        Value::Array(list) if !list.is_empty() => block(value, 0, &mut out),
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                pad(depth, out);
                entry(key, value, depth, out);
            }
        }
        Value::Array(list) => {
            for value in list {
                pad(depth, out);
                out.push('-');
                if !matches!(value, Value::Array(list) if !list.is_empty()) {
                    out.push(' ');
                }
                match value {
                    // The first key stands on the dash's line.
                    Value::Object(map) if !map.is_empty() => {
                        for (at, (key, value)) in map.iter().enumerate() {
                            if at > 0 {
                                pad(depth + 1, out);
                            }
                            entry(key, value, depth + 1, out);
                        }
                    }
                    Value::Array(list) if !list.is_empty() => {
                        out.push('\n');
                        block(value, depth + 1, out);
                    }
                    other => {
                        out.push_str(&scalar(other));
                        out.push('\n');
                    }
                }
            }
        }
        other => {
            pad(depth, out);
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

fn entry(key: &str, value: &Value, depth: usize, out: &mut String) {
    out.push_str(&text(key));
    out.push(':');
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        // A list under a key stands at the key's own depth, as kubectl prints it.
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            block(value, depth, out);
        }
        other => {
            out.push(' ');
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

fn pad(depth: usize, out: &mut String) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        other => other.to_string(),
    }
}

/// A text as a plain scalar where no YAML reader (1.1 readers too) can take it for anything else, else quoted.
fn text(string: &str) -> String {
    let first = string.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/' || b == b'_');
    let rest = string.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.-:=".contains(&b));
    let colon = string.ends_with(':');
    let word = string.to_ascii_lowercase();
    let special = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&word.as_str());
    if first && rest && !colon && !special { string.to_owned() } else { Value::from(string).to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn objects_lists_and_empties_stand_as_kubectl_prints_them() {
        let value = json!({
            "kind": "Pod", "labels": {}, "count": 1, "on": true, "none": null,
            "list": [{"name": "a", "args": ["--x=1", "yes", "1"]}, [], [["deep"]], "two words"],
        });
        let expected = "\
kind: Pod
labels: {}
count: 1
\"on\": true
none: null
list:
- name: a
  args:
  - \"--x=1\"
  - \"yes\"
  - \"1\"
- []
-
  -
    - deep
- \"two words\"
";
        assert_eq!(super::print(&value), expected);
        assert_eq!(super::print(&json!({})), "{}\n");
        assert_eq!(super::print(&json!("a: b")), "\"a: b\"\n");
    }

    proptest! {
        /// Line feeds, quotes and colons of a text never become structure.
        #[test]
        fn one_text_is_one_line(key in "\\PC{1,8}", text in "(?s).{0,20}") {
            let printed = super::print(&json!({key.clone(): text.clone()}));
            prop_assert_eq!(printed.matches('\n').count(), 1);
            let value = printed.rsplit_once(": ").map(|(_, value)| value.trim_end());
            let plain = value == Some(text.as_str());
            let quoted = printed.trim_end().ends_with(&Value::from(text.as_str()).to_string());
            prop_assert!(plain || quoted, "{}", printed);
        }
    }
}
