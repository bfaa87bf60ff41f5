//! The Debian package as crates/thruway/Cargo.toml describes it for cargo-deb, built of the debug programs by dpkg-deb: where
//! cargo-deb is not installed, layout, maintainer scripts and purge are tried all the same.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, dead_code, reason = "tests; each uses a part of it")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub const PROGRAMS: [&str; 4] = ["thruway", "thruway-hook", "thruway-node", "thruway-runtime"];

/// crates/thruway, from which the table's paths start.
pub fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The profile's directory, in which the programs of the whole workspace lie.
pub fn built() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_thruway")).parent().expect("a directory")
}

/// Runs it, and gives what it printed, errors too.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// Why no package can be built here, if so.
pub fn cannot() -> Option<String> {
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| !built().join(name).exists()).collect();
    if !missing.is_empty() {
        return Some(format!("{} not built (cargo build --workspace)", missing.join(", ")));
    }
    let tools = ["dpkg-deb", "strip", "python3"];
    let missing: Vec<&str> = tools.into_iter().filter(|name| !here(name)).collect();
    (!missing.is_empty()).then(|| format!("{} not installed", missing.join(", ")))
}

/// True where a program of this name can be started.
pub fn here(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

/// The table `[package.metadata.deb]`, with the package's own keys beside it.
pub struct Metadata {
    pub table: toml::Table,
    pub description: String,
    pub version: String,
}

/// One line of the list of files: what it is, where it comes to, its mode.
pub struct Asset {
    pub source: String,
    pub dest: String,
    pub mode: u32,
}

impl Metadata {
    pub fn read() -> Metadata {
        let text = std::fs::read_to_string(home().join("Cargo.toml")).expect("Cargo.toml");
        let mut manifest: toml::Table = text.parse().expect("TOML");
        let package = manifest["package"].as_table_mut().expect("a package");
        let description = package["description"].as_str().expect("a description").to_owned();
        let table = package["metadata"]["deb"].as_table().expect("metadata.deb").clone();
        Metadata { table, description, version: env!("CARGO_PKG_VERSION").to_owned() }
    }

    pub fn word(&self, key: &str) -> &str {
        self.table.get(key).and_then(toml::Value::as_str).unwrap_or_else(|| panic!("{key} is to be a text"))
    }

    pub fn scripts(&self) -> PathBuf {
        home().join(self.word("maintainer-scripts"))
    }

    pub fn assets(&self) -> Vec<Asset> {
        let line = |asset: &toml::Value| {
            let words: Vec<&str> = asset.as_array().expect("a list").iter().filter_map(toml::Value::as_str).collect();
            let [source, dest, mode] = words[..] else { panic!("{asset} has not three words") };
            let mode = u32::from_str_radix(mode, 8).expect("an octal mode");
            Asset { source: source.to_owned(), dest: dest.to_owned(), mode }
        };
        self.table["assets"].as_array().expect("a list").iter().map(line).collect()
    }

    /// The files of `asset` with their names in the package; `generated` stands for target/release.
    pub fn files(&self, asset: &Asset, generated: &Path) -> Vec<(PathBuf, String)> {
        let source = match asset.source.strip_prefix("target/release/") {
            Some(rest) => generated.join(rest),
            None => home().join(&asset.source),
        };
        let pattern = source.file_name().expect("a name").to_string_lossy().into_owned();
        let mut sources = vec![source.clone()];
        if let Some((start, end)) = pattern.split_once('*') {
            let names = std::fs::read_dir(source.parent().expect("a directory")).expect("the assets' directory");
            let names = names.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
            let fits = |path: &PathBuf| {
                let name = path.file_name().expect("a name").to_string_lossy();
                name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
            };
            sources = names.filter(fits).collect();
            sources.sort();
            assert!(!sources.is_empty(), "{} names no file", asset.source);
        }
        let place = |source: &PathBuf| match asset.dest.ends_with('/') {
            true => format!("{}{}", asset.dest, source.file_name().expect("a name").to_string_lossy()),
            false => asset.dest.clone(),
        };
        sources.iter().map(|source| (source.clone(), place(source))).collect()
    }
}

/// What stands for target/release: the debug programs without their symbols, and package/ as scripts/package-files.sh makes it.
/// Made once a run, and left for a look: nothing drops what is static.
pub fn generated() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package-release");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        for name in PROGRAMS {
            run(Command::new("strip").arg("-o").arg(dir.join(name)).arg(built().join(name)));
        }
        let script = home().join("../../scripts/package-files.sh");
        run(Command::new(script).arg(&dir).arg(dir.join("package")).env("SOURCE_DATE_EPOCH", "0"));
        dir
    })
}

/// As cargo-deb does with changelogs.
fn compressed(dest: &str) -> bool {
    dest.ends_with("/changelog")
}

fn put(root: &Path, dest: &str, source: &Path, mode: u32) {
    let path = root.join(dest);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
    std::fs::copy(source, &path).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
    if compressed(dest) {
        run(Command::new("gzip").args(["--best", "--no-name"]).arg(&path));
    }
}

/// The package in `dir`, under this version.
pub fn build(dir: &Path, version: &str) -> PathBuf {
    let metadata = Metadata::read();
    let root = dir.join(format!("thruway_{version}"));
    for asset in metadata.assets() {
        for (source, dest) in metadata.files(&asset, generated()) {
            put(&root, &dest, &source, asset.mode);
        }
    }
    let changelog = home().join(metadata.word("changelog"));
    put(&root, "usr/share/doc/thruway/changelog.Debian", &changelog, 0o644);
    run(Command::new("gzip").args(["--best", "--no-name"]).arg(root.join("usr/share/doc/thruway/changelog.Debian")));
    let control = root.join("DEBIAN");
    std::fs::create_dir_all(&control).expect("a directory");
    for name in ["preinst", "postinst", "prerm", "postrm"] {
        let script = metadata.scripts().join(name);
        if script.exists() {
            put(&root, &format!("DEBIAN/{name}"), &script, 0o755);
        }
    }
    let architecture = run(Command::new("dpkg").arg("--print-architecture"));
    let extended: Vec<String> = metadata
        .word("extended-description")
        .trim()
        .lines()
        .map(|line| if line.is_empty() { " .".to_owned() } else { format!(" {line}") })
        .collect();
    let text = format!(
        "Package: thruway\nVersion: {version}\nArchitecture: {}\nMaintainer: {}\nSection: {}\nPriority: {}\nDepends: {}\n\
         Recommends: {}\nSuggests: {}\nDescription: {}\n{}\n",
        architecture.trim(),
        metadata.word("maintainer"),
        metadata.word("section"),
        metadata.word("priority"),
        metadata.word("depends"),
        metadata.word("recommends"),
        metadata.word("suggests"),
        metadata.description,
        extended.join("\n"),
    );
    std::fs::write(control.join("control"), text).expect("the control file");
    let package = dir.join(format!("thruway_{version}.deb"));
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(&root).arg(&package));
    package
}
