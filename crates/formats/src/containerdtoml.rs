//! `/etc/containerd/config.toml`, versions 1, 2 and 3: what it says of the CRI plugin, and `enable_cdi` switched on by
//! splicing bytes, so that comments, order and line ends stay.

mod edit;

use std::fmt;

pub use edit::{Runtime, Wish};
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
    /// The file says something of the CRI plugin. Before 2.1 the last file that does replaces what the others say of it.
    pub has_cri: bool,
    /// `version` is written out; containerd takes a file without it for version 1.
    pub versioned: bool,
    /// The file says something of some plugin.
    pub has_plugins: bool,
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
            has_cri: false,
            versioned: root.contains_key("version"),
            has_plugins: root.contains_key("plugins"),
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
        this.has_cri = plugin.is_some();
        if let Some(table) = plugin.and_then(Item::as_table_like) {
            this.read_plugin(bytes, table);
        }
        Ok(this)
    }

    fn read_plugin(&mut self, bytes: &[u8], plugin: &dyn TableLike) {
        if let Some(value) = plugin.get("enable_cdi").and_then(Item::as_value) {
            let span = value.span().unwrap_or_default();
            self.enable_cdi = value.as_bool().map(|on| (on, line_at(bytes, span.start)));
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
}

fn line_at(text: &[u8], at: usize) -> u32 {
    let front = text.get(..at.min(text.len())).unwrap_or_default();
    1 + front.iter().filter(|byte| **byte == b'\n').count() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CDI: Wish<'_> = Wish { version: 3, cdi: true, runtime: None };
    const ALL: Wish<'_> = Wish {
        version: 2,
        cdi: true,
        runtime: Some(Runtime { name: "nvidia", binary: "/usr/bin/thruway-runtime", default: true }),
    };

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
        let now = ContainerdToml::parse(TWO.as_bytes()).unwrap().with(&CDI).unwrap();
        assert_eq!(now, TWO.replace("# cri\n", "# cri\n    enable_cdi = true\n"));
        let off = now.replace("enable_cdi = true", "enable_cdi = false # why");
        let file = ContainerdToml::parse(off.as_bytes()).unwrap();
        assert_eq!(file.enable_cdi, Some((false, 6)));
        assert_eq!(file.with(&CDI).unwrap(), off.replace("= false", "= true"));
        let three = "version = 3\r\n";
        let now = ContainerdToml::parse(three.as_bytes()).unwrap().with(&CDI).unwrap();
        assert_eq!(now, "version = 3\r\n\r\n[plugins.\"io.containerd.cri.v1.runtime\"]\r\n  enable_cdi = true\r\n");
        assert_eq!(ContainerdToml::parse(now.as_bytes()).unwrap().with(&CDI).unwrap(), now);
    }

    #[test]
    fn a_header_only_for_a_child_is_no_header() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/x\"\n";
        let now = ContainerdToml::parse(text.as_bytes()).unwrap().with(&CDI).unwrap();
        assert!(now.starts_with(text) && now.ends_with("cri\"]\n  enable_cdi = true\n"), "{now}");
    }

    #[test]
    fn refusals_and_errors() {
        assert_eq!(ContainerdToml::parse(b"version = 2\n[plugins\n").unwrap_err().line, 2);
        let inline = "version = 2\nplugins = { \"io.containerd.grpc.v1.cri\" = { sandbox_image = \"x\" } }\n";
        assert!(ContainerdToml::parse(inline.as_bytes()).unwrap().with(&CDI).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(file) = ContainerdToml::parse(&bytes) {
                let _ = file.with(&ALL);
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
            let now = file.with(&CDI).unwrap();
            let left: Vec<&str> = now.split_inclusive('\n').filter(|line| !line.contains("enable_cdi")).collect();
            prop_assert_eq!(left.concat(), text);
        }
    }
}
