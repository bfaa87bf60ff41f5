//! `/etc/containerd/config.toml`, versions 1, 2 and 3: what it says of the CRI plugin, and `enable_cdi` switched on by
//! splicing bytes, so that comments, order and line ends stay.

use std::fmt;

use toml_edit::{Document, Item, TableLike};

/// Why a text is no containerd configuration, or why it cannot be edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TomlError {
    /// 1-based.
    pub line: u32,
    pub says: String,
}

impl fmt::Display for TomlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.says)
    }
}

impl std::error::Error for TomlError {}

/// What the file says, as far as a GPU's way goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerdToml {
    text: String,
    /// `version`; 1 where it is left out.
    pub version: i64,
    /// `enable_cdi` of the CRI plugin, with its line.
    pub enable_cdi: Option<(bool, u32)>,
    /// The CRI plugin stands in `disabled_plugins`, at this line: then Kubernetes cannot use this containerd.
    pub cri_disabled: Option<u32>,
    /// The runtimes by name, with their BinaryName where one is given.
    pub runtimes: Vec<(String, Option<String>)>,
    pub default_runtime: Option<String>,
    /// Globs of further files: a setting may come from there.
    pub imports: Vec<String>,
    /// Byte range of enable_cdi's value.
    value: Option<(usize, usize)>,
    /// Byte range of the CRI plugin's own table header, and whether it is written as one.
    table: Option<(usize, usize)>,
    /// The CRI plugin's settings are given in a form that has no header (inline or dotted).
    headless: bool,
}

impl ContainerdToml {
    /// The plugin that holds the CRI settings, by the file's version.
    pub fn plugin(&self) -> &'static str {
        match self.version {
            ..=1 => "cri",
            2 => "io.containerd.grpc.v1.cri",
            _ => "io.containerd.cri.v1.runtime",
        }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, TomlError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|bad| TomlError { line: line_at(bytes, bad.valid_up_to()), says: "is no UTF-8".into() })?;
        let document = Document::parse(text).map_err(|bad| TomlError {
            line: line_at(bytes, bad.span().map_or(0, |span| span.start)),
            says: bad.message().lines().next().unwrap_or("is no TOML").to_owned(),
        })?;
        let root = document.as_table();
        let mut this = ContainerdToml {
            text: text.to_owned(),
            version: root.get("version").and_then(Item::as_integer).unwrap_or(1),
            enable_cdi: None,
            cri_disabled: None,
            runtimes: Vec::new(),
            default_runtime: None,
            imports: Vec::new(),
            value: None,
            table: None,
            headless: false,
        };
        for item in root.get("disabled_plugins").and_then(Item::as_array).into_iter().flatten() {
            if matches!(item.as_str(), Some("cri" | "io.containerd.grpc.v1.cri" | "io.containerd.cri.v1.runtime")) {
                this.cri_disabled = Some(line_at(bytes, item.span().map_or(0, |span| span.start)));
            }
        }
        for item in root.get("imports").and_then(Item::as_array).into_iter().flatten() {
            this.imports.extend(item.as_str().map(str::to_owned));
        }
        let plugin = root.get("plugins").and_then(Item::as_table_like).and_then(|all| all.get(this.plugin()));
        if let Some(plugin) = plugin {
            match plugin {
                Item::Table(table) if !table.is_implicit() && !table.is_dotted() => {
                    this.table = table.span().map(|span| (span.start, span.end));
                    this.headless = this.table.is_none();
                }
                Item::Table(table) if table.is_implicit() && !table.is_dotted() => {}
                _ => this.headless = true,
            }
            if let Some(table) = plugin.as_table_like() {
                this.read_plugin(bytes, table);
            }
        }
        Ok(this)
    }

    fn read_plugin(&mut self, bytes: &[u8], plugin: &dyn TableLike) {
        if let Some(value) = plugin.get("enable_cdi").and_then(Item::as_value) {
            let span = value.span().unwrap_or_default();
            self.enable_cdi = value.as_bool().map(|on| (on, line_at(bytes, span.start)));
            self.value = Some((span.start, span.end));
        }
        let containerd = plugin.get("containerd").and_then(Item::as_table_like);
        let Some(containerd) = containerd else { return };
        self.default_runtime = containerd.get("default_runtime_name").and_then(Item::as_str).map(str::to_owned);
        let runtimes = containerd.get("runtimes").and_then(Item::as_table_like);
        for (name, runtime) in runtimes.map(|all| all.iter()).into_iter().flatten() {
            let options = runtime.as_table_like().and_then(|table| table.get("options")).and_then(Item::as_table_like);
            let binary = options.and_then(|table| table.get("BinaryName")).and_then(Item::as_str);
            self.runtimes.push((name.to_owned(), binary.map(str::to_owned)));
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file with `enable_cdi = true` for the CRI plugin; the same bytes where it says so. Version 1 files have no
    /// such setting in any containerd that reads only them, so they are refused.
    pub fn with_cdi(&self) -> Result<String, TomlError> {
        let refuse = |says: &str| Err(TomlError { line: 1, says: says.to_owned() });
        if self.version < 2 {
            return refuse("a version 1 file must first be migrated (containerd config migrate)");
        }
        if self.enable_cdi.is_some_and(|(on, _)| on) {
            return Ok(self.text.clone());
        }
        let newline = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        let edited = match (self.value, self.table) {
            (Some((start, end)), _) => self.splice(start, end, "true"),
            (None, Some((start, _))) => {
                // The line of the table's header.
                let back = self.text.get(start..).unwrap_or_default();
                match back.find('\n') {
                    Some(at) => {
                        let next = back.get(at + 1..).unwrap_or_default().lines().next().unwrap_or_default();
                        let white = next.len() - next.trim_start().len();
                        let indent = next.get(..white).filter(|white| !white.is_empty()).unwrap_or("  ");
                        let at = start + at + 1;
                        self.splice(at, at, &format!("{indent}enable_cdi = true{newline}"))
                    }
                    None => format!("{}{newline}  enable_cdi = true{newline}", self.text),
                }
            }
            (None, None) if self.headless => {
                return refuse("the CRI plugin's settings stand in one line; write them as a table first");
            }
            (None, None) => {
                let lead = match () {
                    () if self.text.is_empty() => "",
                    () if self.text.ends_with('\n') => newline,
                    () => &format!("{newline}{newline}"),
                };
                let plugin = self.plugin();
                format!("{}{lead}[plugins.\"{plugin}\"]{newline}  enable_cdi = true{newline}", self.text)
            }
        };
        match ContainerdToml::parse(edited.as_bytes()) {
            Ok(now) if now.enable_cdi.is_some_and(|(on, _)| on) => Ok(edited),
            Ok(_) => refuse("enable_cdi could not be put into this file"),
            Err(bad) => Err(bad),
        }
    }

    fn splice(&self, start: usize, end: usize, new: &str) -> String {
        let front = self.text.get(..start).unwrap_or_default();
        let back = self.text.get(end..).unwrap_or_default();
        format!("{front}{new}{back}")
    }
}

fn line_at(text: &[u8], at: usize) -> u32 {
    let front = text.get(..at.min(text.len())).unwrap_or_default();
    1 + front.iter().filter(|byte| **byte == b'\n').count() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO: &str = "# mine\nversion = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"] # cri\n    \
                       sandbox_image = \"pause:3.9\"\n    [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n      \
                       default_runtime_name = \"nvidia\"\n      \
                       [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia.options]\n        \
                       BinaryName = \"/usr/bin/nvidia-container-runtime\"\n";

    #[test]
    fn reads_what_matters() {
        let file = ContainerdToml::parse(TWO.as_bytes()).unwrap();
        assert_eq!((file.version, file.enable_cdi), (2, None));
        assert_eq!(file.runtimes, [("nvidia".into(), Some("/usr/bin/nvidia-container-runtime".into()))]);
        assert_eq!(file.default_runtime.as_deref(), Some("nvidia"));
        let docker = ContainerdToml::parse(b"#   Copyright\n\ndisabled_plugins = [\"cri\"]\n").unwrap();
        assert_eq!((docker.version, docker.cri_disabled), (1, Some(3)));
    }

    #[test]
    fn cdi_is_switched_on_by_one_line() {
        let now = ContainerdToml::parse(TWO.as_bytes()).unwrap().with_cdi().unwrap();
        assert_eq!(now, TWO.replace("# cri\n", "# cri\n    enable_cdi = true\n"));
        let off = now.replace("enable_cdi = true", "enable_cdi = false # why");
        let file = ContainerdToml::parse(off.as_bytes()).unwrap();
        assert_eq!(file.enable_cdi, Some((false, 6)));
        assert_eq!(file.with_cdi().unwrap(), off.replace("= false", "= true"));
        let three = "version = 3\r\n";
        let now = ContainerdToml::parse(three.as_bytes()).unwrap().with_cdi().unwrap();
        assert_eq!(now, "version = 3\r\n\r\n[plugins.\"io.containerd.cri.v1.runtime\"]\r\n  enable_cdi = true\r\n");
        assert_eq!(ContainerdToml::parse(now.as_bytes()).unwrap().with_cdi().unwrap(), now);
    }

    #[test]
    fn a_header_only_for_a_child_is_no_header() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/x\"\n";
        let now = ContainerdToml::parse(text.as_bytes()).unwrap().with_cdi().unwrap();
        assert!(now.starts_with(text) && now.ends_with("cri\"]\n  enable_cdi = true\n"), "{now}");
    }

    #[test]
    fn refusals_and_errors() {
        assert_eq!(ContainerdToml::parse(b"version = 2\n[plugins\n").unwrap_err().line, 2);
        let inline = "version = 2\nplugins = { \"io.containerd.grpc.v1.cri\" = { sandbox_image = \"x\" } }\n";
        assert!(ContainerdToml::parse(inline.as_bytes()).unwrap().with_cdi().is_err());
        assert!(ContainerdToml::parse(b"").unwrap().with_cdi().is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(file) = ContainerdToml::parse(&bytes) {
                let _ = file.with_cdi();
            }
        }

        #[test]
        fn parsing_keeps_the_text_and_editing_only_adds(
            head in "(# [a-z ]{0,9}\n){0,2}",
            keys in proptest::collection::btree_map("[a-z]{2,6}", 0u32..9, 0..4),
            crlf in any::<bool>(),
        ) {
            let keys: String = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            let mut text = format!("{head}version = 3\n[plugins.\"io.containerd.cri.v1.runtime\"]\n{keys}[other]\n");
            if crlf {
                text = text.replace('\n', "\r\n");
            }
            let file = ContainerdToml::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(file.text(), &text);
            let now = file.with_cdi().unwrap();
            let left: Vec<&str> = now.split_inclusive('\n').filter(|line| !line.contains("enable_cdi")).collect();
            prop_assert_eq!(left.concat(), text);
        }
    }
}
