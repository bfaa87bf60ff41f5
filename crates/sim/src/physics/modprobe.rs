//! modprobe's view of its configuration, at one moment (the initramfs's copy or the root file system's).

use crate::tree::Tree;

/// `-` and `_` are one in module names.
pub(crate) fn name(text: &str) -> String {
    text.trim_end_matches(".zst").trim_end_matches(".xz").trim_end_matches(".ko").replace('-', "_")
}

/// What modprobe.d says.
#[derive(Debug, Default)]
pub(crate) struct Conf {
    blacklist: Vec<String>,
    /// (module, words)
    options: Vec<(String, Vec<String>)>,
    /// (module, modules to load before it)
    pre: Vec<(String, Vec<String>)>,
    /// Modules whose `install` command is not modprobe itself: they never load.
    barred: Vec<String>,
    /// (module, script that its `install` command runs before modprobe)
    scripts: Vec<(String, String)>,
}

const DIRS: [&str; 4] = ["/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"];

impl Conf {
    /// Reads the directories below `prefix` (empty for the root file system), earlier ones shadowing by file name.
    pub fn read(tree: &Tree, prefix: &str, cmdline: &str) -> Conf {
        let mut conf = Conf::default();
        let mut seen: Vec<String> = Vec::new();
        let mut files = Vec::new();
        for dir in DIRS {
            for (file, text) in tree.texts(&format!("{prefix}{dir}"), ".conf") {
                if !seen.contains(&file) {
                    seen.push(file.clone());
                    files.push((file, text));
                }
            }
        }
        files.sort();
        for (_, text) in files {
            conf.parse(&text.replace("\\\n", " "));
        }
        for token in cmdline.split_whitespace() {
            match token.split_once('=') {
                Some(("module_blacklist", list)) => conf.barred.extend(list.split(',').map(name)),
                Some(("modprobe.blacklist", list)) => conf.blacklist.extend(list.split(',').map(name)),
                Some((key, value)) => {
                    if let Some((module, option)) = key.split_once('.') {
                        conf.options.push((name(module), vec![format!("{option}={value}")]));
                    }
                }
                None => {}
            }
        }
        conf
    }

    fn parse(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (Some(verb), Some(module)) = (words.next(), words.next()) else { continue };
            let module = name(module);
            match verb {
                "blacklist" => self.blacklist.push(module),
                "options" => self.options.push((module, words.map(str::to_owned).collect())),
                "install" => {
                    let command: Vec<&str> = words.collect();
                    if !command.iter().any(|word| word.ends_with("modprobe")) {
                        self.barred.push(module);
                    } else if let Some(script) = command
                        .iter()
                        .map(|word| word.trim_end_matches(';'))
                        .find(|word| word.starts_with('/') && !word.ends_with("modprobe") && !word.ends_with("/sh"))
                    {
                        self.scripts.push((module, script.to_owned()));
                    }
                }
                "softdep" => {
                    let mut before = false;
                    let mut pre = Vec::new();
                    for word in words {
                        match word {
                            "pre:" => before = true,
                            "post:" => before = false,
                            _ if before => pre.push(name(word)),
                            _ => {}
                        }
                    }
                    self.pre.push((module, pre));
                }
                _ => {}
            }
        }
    }

    /// Loaded by udev for a device?
    pub fn autoloads(&self, module: &str) -> bool {
        !self.blacklist.iter().any(|m| m == module) && self.loads(module)
    }

    /// Loaded when named?
    pub fn loads(&self, module: &str) -> bool {
        !self.barred.iter().any(|m| m == module)
    }

    pub fn before(&self, module: &str) -> impl Iterator<Item = &str> {
        self.pre.iter().filter(move |(m, _)| m == module).flat_map(|(_, pre)| pre.iter().map(String::as_str))
    }

    /// The script that modprobe runs before it loads the module.
    pub fn script(&self, module: &str) -> Option<&str> {
        self.scripts.iter().rev().find(|(m, _)| m == module).map(|(_, script)| script.as_str())
    }

    /// The last value of a module's option.
    pub fn option(&self, module: &str, option: &str) -> Option<&str> {
        let of_module = self.options.iter().filter(|(m, _)| m == module);
        let words = of_module.flat_map(|(_, words)| words.iter());
        let values = words.filter_map(|word| word.split_once('=').filter(|(key, _)| key.replace('-', "_") == option));
        values.map(|(_, value)| value.trim_matches('"')).next_back()
    }
}
