//! The command line: `create-container` with our own options, and the names of NVIDIA's hooks for specs that NVIDIA's
//! generator made. A hook that is not known is a warning and no error: an old program with a new spec stops no container.

use crate::{COMPAT_ROOT, Link, Options};

pub const HELP: &str = "\
thruway-hook: what a container needs for its GPUs, done inside its root before its first process

Started by a container runtime as a createContainer hook, with the OCI state on standard input. It reads no
environment, runs no program, and opens every name of the image below the container's root only.

USAGE
  thruway-hook create-container [OPTIONS]

OPTIONS
  --link TARGET::LINK    make the link LINK with the text TARGET, if what it leads to is there (repeatable)
  --folder DIR           a directory of driver libraries, for the loader's cache (repeatable)
  --driver VERSION       the running driver, 580.159.04: decides about CUDA forward compatibility
  --cuda MAJOR.MINOR     the running driver's CUDA version, for the same
  --compat-root DIR      where the image keeps compatibility libraries [/usr/local/cuda/compat]
  --guard-params         cover /proc/driver/nvidia/params with a copy that says ModifyDeviceFiles: 0
  --application-profile  tell EGL which cards are this container's
  --help, --version

Also, by these names or as nvidia-cdi-hook or nvidia-ctk hook, what NVIDIA's hooks of the same names do:
  create-symlinks, update-ldcache, enable-cuda-compat, disable-device-node-modification,
  update-application-profile; chmod does nothing.

Exit status: 0 done, or the hook's name is not known; 1 it could not be done, and the container must not start;
2 the command line is wrong.
";

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Carry(Options),
    /// Nothing, and why.
    Nothing(String),
    Help,
    Version,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub command: Command,
    pub warnings: Vec<String>,
}

/// What is wrong with the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; see thruway-hook --help")]
pub struct ArgsError(pub String);

/// `argv` with the program's name first.
///
/// # Errors
/// A known option with a value that is none of its own.
pub fn parse(argv: &[String]) -> Result<Parsed, ArgsError> {
    let program = argv.first().map_or("", |name| name.rsplit('/').next().unwrap_or(name));
    let mut rest = argv.get(1..).unwrap_or_default();
    let only = |command| Ok(Parsed { command, warnings: Vec::new() });
    // NVIDIA's programs take --debug and the like before the hook's name
    while let [first, tail @ ..] = rest {
        match first.as_str() {
            "--help" | "-h" | "help" => return only(Command::Help),
            "--version" | "-V" | "version" => return only(Command::Version),
            "hook" if program != "nvidia-cdi-hook" => rest = tail,
            flag if flag.starts_with('-') => rest = tail,
            _ => break,
        }
    }
    let [name, rest @ ..] = rest else {
        return if argv.len() <= 1 {
            only(Command::Help)
        } else {
            only(Command::Nothing("no hook is named".to_owned()))
        };
    };
    let mut options = Options::default();
    let mut warnings = Vec::new();
    let flags: &[(&str, Flag)] = match name.as_str() {
        "create-container" => OURS,
        "create-symlinks" => &[("link", Flag::DanglingLink)],
        "update-ldcache" => &[("folder", Flag::Folder), ("folders", Flag::Folder), ("ldconfig-path", Flag::Ignored)],
        "enable-cuda-compat" | "cudacompat" => &[
            ("host-driver-version", Flag::Driver),
            ("host-cuda-version", Flag::Cuda),
            ("cuda-compat-container-root", Flag::CompatRoot),
        ],
        "disable-device-node-modification" => {
            options.guard_params = true;
            &[]
        }
        "update-application-profile" => {
            options.application_profile = true;
            &[]
        }
        "chmod" => {
            let why = "chmod is a workaround for a fault of crun of 2023 and does nothing here".to_owned();
            return only(Command::Nothing(why));
        }
        other => return only(Command::Nothing(format!("this version knows no hook {other:?}; it did nothing"))),
    };
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        let Some(text) = word.strip_prefix("--") else {
            warnings.push(format!("{word:?} is no option and was passed over"));
            continue;
        };
        let (key, joined) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key == "help" {
            return only(Command::Help);
        }
        let Some((_, flag)) = flags.iter().find(|(known, _)| *known == key) else {
            warnings.push(format!("this version knows no option --{key} of {name}; it was passed over"));
            // an unknown option's value, most likely
            if joined.is_none() && words.as_slice().first().is_some_and(|next| !next.starts_with("--")) {
                words.next();
            }
            continue;
        };
        let value = match (flag.takes_value(), joined) {
            (false, _) => String::new(),
            (true, Some(value)) => value,
            (true, None) => words.next().cloned().ok_or_else(|| ArgsError(format!("--{key} needs a value")))?,
        };
        flag.set(&mut options, key, value)?;
    }
    Ok(Parsed { command: Command::Carry(options), warnings })
}

#[derive(Clone, Copy)]
enum Flag {
    Link,
    DanglingLink,
    Folder,
    Driver,
    Cuda,
    CompatRoot,
    GuardParams,
    ApplicationProfile,
    Ignored,
}

const OURS: &[(&str, Flag)] = &[
    ("link", Flag::Link),
    ("folder", Flag::Folder),
    ("driver", Flag::Driver),
    ("cuda", Flag::Cuda),
    ("compat-root", Flag::CompatRoot),
    ("guard-params", Flag::GuardParams),
    ("application-profile", Flag::ApplicationProfile),
];

impl Flag {
    fn takes_value(self) -> bool {
        !matches!(self, Flag::GuardParams | Flag::ApplicationProfile)
    }

    fn set(self, options: &mut Options, key: &str, value: String) -> Result<(), ArgsError> {
        let wrong = |wanted: &str| ArgsError(format!("--{key} {value:?} is no {wanted}"));
        let absolute = |value: &str| value.starts_with('/') && !value.contains(['\n', '\0']);
        match self {
            Flag::Link | Flag::DanglingLink => {
                let (target, link) = value.split_once("::").ok_or_else(|| wrong("TARGET::LINK"))?;
                if target.is_empty() || !absolute(link) {
                    return Err(wrong("TARGET::LINK with an absolute LINK"));
                }
                let dangling = matches!(self, Flag::DanglingLink);
                options.links.push(Link { target: target.to_owned(), link: link.to_owned(), dangling });
            }
            Flag::Folder if absolute(&value) => options.folders.push(value),
            Flag::CompatRoot if value.is_empty() => options.compat_root = COMPAT_ROOT.to_owned(),
            Flag::CompatRoot if absolute(&value) => options.compat_root = value,
            Flag::Folder | Flag::CompatRoot => return Err(wrong("absolute path")),
            // NVIDIA's generator writes an empty value where it does not know one
            Flag::Driver | Flag::Cuda if value.is_empty() => {}
            Flag::Driver => {
                let is = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && value.contains('.');
                if !is {
                    return Err(wrong("driver's version"));
                }
                options.driver = Some(value);
            }
            Flag::Cuda => {
                let pair = value.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                options.cuda = Some(pair.ok_or_else(|| wrong("version of the form MAJOR.MINOR"))?);
            }
            Flag::GuardParams => options.guard_params = true,
            Flag::ApplicationProfile => options.application_profile = true,
            Flag::Ignored => {}
        }
        Ok(())
    }
}
