//! What is changed in a containerd configuration, by splicing bytes: comments, order and line ends stay.

use toml_edit::{Document, Item, TableLike};

use super::{ContainerdToml, TomlError, line_at};

/// What a file is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish<'w> {
    /// The form of a file that says no version and nothing of plugins: 2 before containerd 2.0, 3 from there on.
    pub version: i64,
    /// `enable_cdi = true`.
    pub cdi: bool,
    pub runtime: Option<Runtime<'w>>,
}

/// A runtime of the CRI plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runtime<'w> {
    pub name: &'w str,
    /// `options.BinaryName`: full path.
    pub binary: &'w str,
    /// Make it `default_runtime_name`.
    pub default: bool,
}

/// runc's own shim, which a BinaryName is an option of.
const SHIM: &str = "io.containerd.runc.v2";

impl ContainerdToml {
    /// The file with what is wished for; the same bytes where it says so already. A new runtime has the options of the
    /// default one (`SystemdCgroup` above all), with another binary. Where the file named no runtime at all, `runc` is
    /// named beside it: before containerd 2.0 a table of runtimes replaces the built-in one, and the default would be gone.
    pub fn with(&self, wish: &Wish<'_>) -> Result<String, TomlError> {
        let mut text = self.text.clone();
        let mut version = self.version;
        if !self.versioned && !self.has_plugins && (wish.cdi || wish.runtime.is_some()) {
            version = wish.version;
            let newline = newline(&text);
            let lead = format!("version = {version}{newline}");
            text = if text.is_empty() { lead } else { format!("{lead}{newline}{text}") };
        }
        let plugin = match version {
            ..=1 => "cri",
            2 => "io.containerd.grpc.v1.cri",
            _ => "io.containerd.cri.v1.runtime",
        };
        let cri = ["plugins", plugin];
        if wish.cdi {
            text = set(&text, &cri, "enable_cdi", "true")?;
        }
        if let Some(runtime) = &wish.runtime {
            text = with_runtime(&text, &cri, runtime)?;
        }
        let now = ContainerdToml::parse(text.as_bytes())?;
        let named = |runtime: &Runtime<'_>| {
            let binary = Some(runtime.binary.to_owned());
            now.runtimes.iter().any(|(name, at)| name == runtime.name && *at == binary)
                && (!runtime.default || now.default_runtime.as_deref() == Some(runtime.name))
        };
        if (wish.cdi && !now.enable_cdi.is_some_and(|(on, _)| on)) || !wish.runtime.as_ref().is_none_or(named) {
            return Err(TomlError { line: 1, says: "it could not be edited".to_owned() });
        }
        Ok(text)
    }
}

fn with_runtime(text: &str, cri: &[&str], runtime: &Runtime<'_>) -> Result<String, TomlError> {
    let containerd = [cri, &["containerd"]].concat();
    let runtimes = [&containerd[..], &["runtimes"]].concat();
    let ours = [&runtimes[..], &[runtime.name]].concat();
    let options = [&ours[..], &["options"]].concat();
    let binary = quoted(runtime.binary);
    let document = parse(text)?;
    let mut now = text.to_owned();
    if let Some(there) = find(document.as_table(), &ours) {
        let typed = there.as_table_like().is_some_and(|table| table.contains_key("runtime_type"));
        if !typed {
            now = set(&now, &ours, "runtime_type", &quoted(SHIM))?;
        }
        now = set(&now, &options, "BinaryName", &binary)?;
    } else {
        let known = find(document.as_table(), &runtimes).and_then(Item::as_table_like);
        let base = find(document.as_table(), &containerd).and_then(Item::as_table_like);
        let default = base.and_then(|table| table.get("default_runtime_name")).and_then(Item::as_str).unwrap_or("runc");
        let model = known.and_then(|all| all.get(default)).and_then(Item::as_table_like);
        if known.is_none_or(|all| all.is_empty()) {
            let runc = [&runtimes[..], &["runc"]].concat();
            now = append(&now, &runc, &[("runtime_type".to_owned(), quoted(SHIM))])?;
        }
        let mut keys = copied(text, model, &[]);
        if !keys.iter().any(|(key, _)| key == "runtime_type") {
            keys.insert(0, ("runtime_type".to_owned(), quoted(SHIM)));
        }
        let inner = model.and_then(|table| table.get("options")).and_then(Item::as_table_like);
        let mut inner = copied(text, inner, &["BinaryName"]);
        inner.insert(0, ("BinaryName".to_owned(), binary));
        now = append(&now, &ours, &keys)?;
        now = append(&now, &options, &inner)?;
    }
    if runtime.default {
        now = set(&now, &containerd, "default_runtime_name", &quoted(runtime.name))?;
    }
    Ok(now)
}

/// A table's plain values as they are written, less those `but`.
fn copied(text: &str, table: Option<&dyn TableLike>, but: &[&str]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (key, item) in table.map(|table| table.iter()).into_iter().flatten() {
        let Some(value) = item.as_value().filter(|_| !but.contains(&key)) else { continue };
        let Some(source) = value.span().and_then(|span| text.get(span)) else { continue };
        pairs.push((bare(key), source.to_owned()));
    }
    pairs
}

/// One key of the table at `path`: its value replaced, or a line below the table's header, or a new table at the end.
fn set(text: &str, path: &[&str], key: &str, literal: &str) -> Result<String, TomlError> {
    let document = parse(text)?;
    let table = find(document.as_table(), path);
    let refuse = |says: &str| Err(TomlError { line: 1, says: says.to_owned() });
    if let Some(value) = table.and_then(Item::as_table_like).and_then(|table| table.get(key)) {
        let Some(span) = value.as_value().and_then(|value| value.span()) else {
            return refuse(&format!("{key} is no plain value"));
        };
        if text.get(span.clone()) == Some(literal) {
            return Ok(text.to_owned());
        }
        return Ok(splice(text, span.start, span.end, literal));
    }
    match table {
        Some(Item::Table(table)) if !table.is_implicit() && !table.is_dotted() => {
            let Some(span) = table.span() else { return refuse("a table has no place in the file") };
            let newline = newline(text);
            let back = text.get(span.start..).unwrap_or_default();
            let Some(at) = back.find('\n') else {
                return Ok(format!("{text}{newline}  {key} = {literal}{newline}"));
            };
            let next = back.get(at + 1..).unwrap_or_default().lines().next().unwrap_or_default();
            let white = next.len() - next.trim_start().len();
            let indent = next.get(..white).filter(|white| !white.is_empty()).unwrap_or("  ");
            let at = span.start + at + 1;
            Ok(splice(text, at, at, &format!("{indent}{key} = {literal}{newline}")))
        }
        None => append(text, path, &[(key.to_owned(), literal.to_owned())]),
        Some(Item::Table(table)) if table.is_implicit() && !table.is_dotted() => {
            append(text, path, &[(key.to_owned(), literal.to_owned())])
        }
        Some(_) => {
            let line = table.and_then(Item::span).map_or(1, |span| line_at(text.as_bytes(), span.start));
            let says = "the CRI plugin's settings stand in one line; write them as tables first".to_owned();
            Err(TomlError { line, says })
        }
    }
}

/// A new table at the end of the file.
fn append(text: &str, path: &[&str], keys: &[(String, String)]) -> Result<String, TomlError> {
    let newline = newline(text);
    let mut out = text.to_owned();
    if !out.is_empty() {
        if !out.ends_with('\n') {
            out.push_str(newline);
        }
        out.push_str(newline);
    }
    let names: Vec<String> = path.iter().map(|name| bare(name)).collect();
    out.push_str(&format!("[{}]{newline}", names.join(".")));
    for (key, value) in keys {
        out.push_str(&format!("  {key} = {value}{newline}"));
    }
    parse(&out)?;
    Ok(out)
}

fn parse(text: &str) -> Result<Document<&str>, TomlError> {
    Document::parse(text).map_err(|bad| TomlError {
        line: line_at(text.as_bytes(), bad.span().map_or(0, |span| span.start)),
        says: bad.message().lines().next().unwrap_or("is no TOML").to_owned(),
    })
}

fn find<'t>(table: &'t dyn TableLike, path: &[&str]) -> Option<&'t Item> {
    let (first, rest) = path.split_first()?;
    let item = table.get(first)?;
    if rest.is_empty() { Some(item) } else { find(item.as_table_like()?, rest) }
}

/// A key, quoted where TOML wants it so.
fn bare(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if plain { key.to_owned() } else { quoted(key) }
}

fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string().trim().to_owned()
}

fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

fn splice(text: &str, start: usize, end: usize, new: &str) -> String {
    let front = text.get(..start).unwrap_or_default();
    let back = text.get(end..).unwrap_or_default();
    format!("{front}{new}{back}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Runtime<'_> = Runtime { name: "nvidia", binary: "/usr/bin/thruway-runtime", default: true };

    fn edited(text: &str, wish: &Wish<'_>) -> String {
        let now = ContainerdToml::parse(text.as_bytes()).unwrap().with(wish).unwrap();
        assert_eq!(ContainerdToml::parse(now.as_bytes()).unwrap().with(wish).unwrap(), now, "twice is once");
        now
    }

    #[test]
    fn an_empty_file_becomes_a_whole_one() {
        let wish = Wish { version: 2, cdi: true, runtime: Some(OURS) };
        assert_eq!(
            edited("", &wish),
            "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  enable_cdi = true\n\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\n  runtime_type = \"io.containerd.runc.v2\"\n\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia.options]\n  \
             BinaryName = \"/usr/bin/thruway-runtime\"\n\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  default_runtime_name = \"nvidia\"\n"
        );
    }

    #[test]
    fn the_default_runtimes_options_come_along() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  default_runtime_name = \"runc\" # mine\n\
                    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n  \
                    base_runtime_spec = '/etc/base.json'\n\
                    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n  SystemdCgroup = true\n  \
                    BinaryName = \"runc\"\n";
        let now = edited(text, &Wish { version: 2, cdi: false, runtime: Some(OURS) });
        let kept = text.replace("name = \"runc\" # mine", "name = \"nvidia\" # mine");
        let plugin = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia";
        assert_eq!(
            now,
            format!(
                "{kept}\n[{plugin}]\n  runtime_type = \"io.containerd.runc.v2\"\n  base_runtime_spec = '/etc/base.json'\n\n\
                 [{plugin}.options]\n  BinaryName = \"/usr/bin/thruway-runtime\"\n  SystemdCgroup = true\n"
            )
        );
    }

    #[test]
    fn nvidias_runtime_becomes_ours_by_one_value() {
        let text = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia]\n\
                    runtime_type = 'io.containerd.runc.v2'\n\
                    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia.options]\n\
                    BinaryName = '/usr/bin/nvidia-container-runtime'\nSystemdCgroup = true\n";
        let wish = Wish { version: 3, cdi: false, runtime: Some(Runtime { default: false, ..OURS }) };
        let now = edited(text, &wish);
        assert_eq!(now, text.replace("'/usr/bin/nvidia-container-runtime'", "\"/usr/bin/thruway-runtime\""));
    }

    #[test]
    fn version_one_keeps_its_form_and_comments_alone_get_a_version() {
        let text = "[plugins.cri]\n  sandbox_image = \"pause\"\n";
        let now = edited(text, &Wish { version: 2, cdi: true, runtime: None });
        assert_eq!(now, "[plugins.cri]\n  enable_cdi = true\n  sandbox_image = \"pause\"\n");
        let now = edited("# mine\n", &Wish { version: 3, cdi: true, runtime: None });
        assert!(now.starts_with("version = 3\n\n# mine\n\n[plugins.\"io.containerd.cri.v1.runtime\"]\n"), "{now}");
    }

    #[test]
    fn what_stands_in_one_line_is_refused_with_its_line() {
        let text = "version = 2\n\nplugins = { \"io.containerd.grpc.v1.cri\" = { sandbox_image = \"x\" } }\n";
        let file = ContainerdToml::parse(text.as_bytes()).unwrap();
        assert_eq!(file.with(&Wish { version: 2, cdi: true, runtime: None }).unwrap_err().line, 3);
        assert!(file.with(&Wish { version: 2, cdi: false, runtime: Some(OURS) }).is_err());
    }
}
