//! An OCI runtime configuration (runtime-spec, config.md): the few places in it that a GPU concerns.

use std::borrow::Cow;

use crate::json::{self, BadJson};

/// A mount as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted<'a> {
    pub destination: Cow<'a, str>,
    pub source: Cow<'a, str>,
}

/// What a configuration says that matters for a request. Everything else is not looked into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look<'a> {
    /// `process.env`, `NAME=value`.
    pub env: Vec<Cow<'a, str>>,
    pub mounts: Vec<Mounted<'a>>,
    /// In the order of the file.
    pub annotations: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// CAP_SYS_ADMIN in `process.capabilities.bounding`.
    pub sys_admin: bool,
    /// `root.path`, relative to the bundle where it is not absolute.
    pub root: Option<Cow<'a, str>>,
    /// A prestart hook of NVIDIA's name, such as docker adds for `--gpus`.
    pub nvidia_hook: bool,
    linux: Option<&'a str>,
}

/// What docker and NVIDIA's toolkit name the prestart hook.
const HOOKS: [&str; 2] = ["nvidia-container-runtime-hook", "nvidia-container-toolkit"];

/// Whether a hook's program is NVIDIA's prestart hook, by its file name.
pub fn is_nvidia_hook(path: &str) -> bool {
    HOOKS.contains(&path.rsplit('/').next().unwrap_or(path))
}

impl<'a> Look<'a> {
    /// Looks through a configuration.
    ///
    /// # Errors
    /// The text is no JSON object, or one of the places is of another type than the runtime specification gives it.
    pub fn at(text: &'a str) -> Result<Look<'a>, BadJson> {
        let mut look = Look::default();
        for (key, value) in json::members(text)? {
            if value == "null" {
                continue;
            }
            match json::string(key).as_deref() {
                Some("process") => look.process(value)?,
                Some("mounts") => look.mounts = mounts(value)?,
                Some("annotations") => look.annotations = annotations(value)?,
                Some("root") => look.root = json::member(value, "path")?.and_then(json::string),
                Some("hooks") => look.nvidia_hook = hook(value)?,
                Some("linux") => look.linux = Some(value),
                _ => {}
            }
        }
        Ok(look)
    }

    fn process(&mut self, text: &'a str) -> Result<(), BadJson> {
        for (key, value) in json::members(text)? {
            if value == "null" {
                continue;
            }
            match json::string(key).as_deref() {
                Some("env") => self.env = json::elements(value)?.into_iter().filter_map(json::string).collect(),
                Some("capabilities") => {
                    if let Some(bounding) = json::member(value, "bounding")?.filter(|value| *value != "null") {
                        self.sys_admin = json::elements(bounding)?.contains(&"\"CAP_SYS_ADMIN\"");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A variable's value; the last one counts, as it does for whoever reads an environment into a map.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// Paths of `linux.devices`: the nodes that the engine was told to make.
    pub fn nodes(&self) -> Result<Vec<Cow<'a, str>>, BadJson> {
        let Some(devices) = self.in_linux("devices")? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for device in json::elements(devices)? {
            found.extend(json::member(device, "path")?.and_then(json::string));
        }
        Ok(found)
    }

    /// Whether the container is given a user namespace of its own.
    pub fn user_namespace(&self) -> Result<bool, BadJson> {
        let Some(namespaces) = self.in_linux("namespaces")? else { return Ok(false) };
        for namespace in json::elements(namespaces)? {
            if json::member(namespace, "type")?.and_then(json::string).as_deref() == Some("user") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `linux.cgroupsPath`.
    pub fn cgroups_path(&self) -> Result<Option<Cow<'a, str>>, BadJson> {
        Ok(self.in_linux("cgroupsPath")?.and_then(json::string))
    }

    fn in_linux(&self, name: &str) -> Result<Option<&'a str>, BadJson> {
        let Some(linux) = self.linux else { return Ok(None) };
        Ok(json::member(linux, name)?.filter(|value| *value != "null"))
    }
}

fn mounts(text: &str) -> Result<Vec<Mounted<'_>>, BadJson> {
    json::elements(text)?
        .into_iter()
        .map(|mount| {
            let (mut destination, mut source) = (Cow::Borrowed(""), Cow::Borrowed(""));
            for (key, value) in json::members(mount)? {
                match json::string(key).as_deref() {
                    Some("destination") => destination = json::string(value).unwrap_or_default(),
                    Some("source") => source = json::string(value).unwrap_or_default(),
                    _ => {}
                }
            }
            Ok(Mounted { destination, source })
        })
        .collect()
}

fn annotations(text: &str) -> Result<Vec<(Cow<'_, str>, Cow<'_, str>)>, BadJson> {
    let members = json::members(text)?.into_iter();
    Ok(members.filter_map(|(key, value)| Some((json::string(key)?, json::string(value)?))).collect())
}

fn hook(text: &str) -> Result<bool, BadJson> {
    let Some(prestart) = json::member(text, "prestart")?.filter(|value| *value != "null") else { return Ok(false) };
    for hook in json::elements(prestart)? {
        if json::member(hook, "path")?.and_then(json::string).is_some_and(|path| is_nvidia_hook(&path)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_that_matter_are_found() {
        let text = r#"{"ociVersion":"1.0.2","process":{"env":["PATH=/bin","A=1","A=2=3"],"capabilities":
            {"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"]}},"root":{"path":"rootfs"},"hooks":{"prestart":[{"path":
            "/usr/bin/nvidia-container-runtime-hook"}]},"mounts":[{"source":"/dev/null","destination":"/x\/y"}],
            "annotations":{"b":"2","a":"1"},"linux":{"devices":[{"path":"/dev/nvidia0"}],"namespaces":
            [{"type":"mount"},{"type":"user"}],"cgroupsPath":"system.slice:docker:abc","seccomp":{"x":[1,{}]}}}"#;
        let look = Look::at(text).unwrap();
        assert_eq!((look.var("A"), look.var("PATH"), look.var("PAT")), (Some("2=3"), Some("/bin"), None));
        assert!(look.sys_admin && look.nvidia_hook);
        assert_eq!(look.mounts, [Mounted { destination: "/x/y".into(), source: "/dev/null".into() }]);
        assert_eq!(look.annotation("a"), Some("1"));
        assert_eq!(look.nodes().unwrap(), ["/dev/nvidia0"]);
        assert!(look.user_namespace().unwrap());
        assert_eq!(look.cgroups_path().unwrap().as_deref(), Some("system.slice:docker:abc"));
        assert_eq!(look.root.as_deref(), Some("rootfs"));
    }

    #[test]
    fn what_is_not_there_is_nothing() {
        let look = Look::at(r#"{"process":null,"mounts":null,"hooks":{"prestart":null},"linux":{}}"#).unwrap();
        assert_eq!(look, Look { linux: Some("{}"), ..Look::default() });
        assert!(look.nodes().unwrap().is_empty() && !look.user_namespace().unwrap());
        assert!(Look::at("[]").is_err());
        assert!(Look::at(r#"{"mounts":7}"#).is_err());
    }
}
