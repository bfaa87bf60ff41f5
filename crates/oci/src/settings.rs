//! What the administrator has set: NVIDIA's config.toml keys under their own names, and the table `[policy]`.

use model::{Capabilities, Capability};
use serde::Deserialize;

/// Who wrote the file, which decides what holds where nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// /etc/thruway/container.toml, or no file at all.
    Ours,
    /// NVIDIA's config.toml: what it allows stays allowed, so that a swap of the program changes nothing.
    Nvidia,
}

/// What is done with a request by environment of a container that no scheduler placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ByEnv {
    #[default]
    Allow,
    /// The container does not start.
    Refuse,
    /// It starts without a card.
    Ignore,
}

/// What is done with a request by environment of a Kubernetes pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pods {
    Allow,
    /// Only what the node's device plugin has granted ([`crate::policy`]).
    Grant,
    Refuse,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub disable_require: bool,
    /// Variables that stand for NVIDIA_VISIBLE_DEVICES where they are set.
    pub swarm_resource: Vec<String>,
    pub accept_volume_mounts: bool,
    pub supported: Capabilities,
    /// `nvidia-container-cli.no-cgroups`: the prestart hook leaves the device cgroup alone.
    pub no_cgroups: bool,
    /// `nvidia-container-runtime.debug`; "/dev/null" and an empty text are none.
    pub debug: Option<String>,
    /// Names or paths of low-level runtimes; the first that is there is taken.
    pub runtimes: Vec<String>,
    /// `nvidia-container-runtime.mode`.
    pub mode: String,
    pub default_kind: String,
    pub annotation_prefixes: Vec<String>,
    /// In rising priority.
    pub spec_dirs: Vec<String>,
    pub skip_mode_detection: bool,
    pub ignore_imex: bool,
    pub unprivileged: ByEnv,
    pub privileged: ByEnv,
    pub pods: Pods,
    /// Where the facts of the running driver are looked up (`sys/module/nvidia/version`, `run/thruway/driver.json`);
    /// empty: this machine's root.
    pub facts_root: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            disable_require: false,
            swarm_resource: Vec::new(),
            accept_volume_mounts: false,
            supported: Capabilities::ALL,
            no_cgroups: false,
            debug: None,
            runtimes: vec!["runc".into(), "crun".into()],
            mode: "auto".into(),
            default_kind: "nvidia.com/gpu".into(),
            annotation_prefixes: vec!["cdi.k8s.io/".into()],
            spec_dirs: formats::cdispec::SPEC_DIRS.map(str::to_owned).to_vec(),
            skip_mode_detection: false,
            ignore_imex: false,
            unprivileged: ByEnv::Allow,
            privileged: ByEnv::Allow,
            pods: Pods::Grant,
            facts_root: String::new(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    disable_require: bool,
    swarm_resource: String,
    accept_nvidia_visible_devices_envvar_when_unprivileged: Option<bool>,
    accept_nvidia_visible_devices_as_volume_mounts: bool,
    supported_driver_capabilities: Option<String>,
    nvidia_container_cli: Cli,
    nvidia_container_runtime: Runtime,
    nvidia_container_runtime_hook: Hook,
    features: Features,
    policy: Policy,
    thruway: Ours,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cli {
    no_cgroups: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Runtime {
    debug: Option<String>,
    mode: Option<String>,
    runtimes: Option<Vec<String>>,
    modes: Modes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Modes {
    cdi: Cdi,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cdi {
    default_kind: Option<String>,
    annotation_prefixes: Option<Vec<String>>,
    spec_dirs: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Hook {
    skip_mode_detection: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Features {
    ignore_imex_channel_requests: bool,
}

/// A word that is none of ours here would be a policy that is not kept, so it is an error.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Policy {
    unprivileged: Option<ByEnv>,
    privileged: Option<ByEnv>,
    pods: Option<Pods>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Ours {
    facts_root: String,
}

impl Settings {
    /// Reads a file. Keys that are not known are passed over, but for those of `[policy]` and `[thruway]`.
    ///
    /// # Errors
    /// What TOML's reader says, with line and column, or the capability that does not exist.
    pub fn read(text: &str, written: Written) -> Result<Settings, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let mut settings = Settings {
            disable_require: file.disable_require,
            swarm_resource: list(&file.swarm_resource),
            accept_volume_mounts: file.accept_nvidia_visible_devices_as_volume_mounts,
            ..Settings::default()
        };
        if let Some(words) = file.supported_driver_capabilities {
            settings.supported = Capabilities::parse(&words).map_err(|word| {
                format!(
                    "supported-driver-capabilities has \"{word}\", which is no driver capability: they are {}",
                    all()
                )
            })?;
        }
        settings.no_cgroups = file.nvidia_container_cli.no_cgroups;
        let runtime = file.nvidia_container_runtime;
        settings.debug = runtime.debug.filter(|path| !path.is_empty() && path != "/dev/null");
        let cdi = runtime.modes.cdi;
        put(&mut settings.runtimes, runtime.runtimes);
        put(&mut settings.mode, runtime.mode);
        put(&mut settings.default_kind, cdi.default_kind);
        put(&mut settings.annotation_prefixes, cdi.annotation_prefixes);
        put(&mut settings.spec_dirs, cdi.spec_dirs);
        settings.skip_mode_detection = file.nvidia_container_runtime_hook.skip_mode_detection;
        settings.ignore_imex = file.features.ignore_imex_channel_requests;
        // what NVIDIA's key forbids, it forbids by passing over the request
        let accepts = file.accept_nvidia_visible_devices_envvar_when_unprivileged;
        if accepts == Some(false) {
            settings.unprivileged = ByEnv::Ignore;
        } else if written == Written::Nvidia {
            settings.pods = Pods::Allow;
        }
        put(&mut settings.unprivileged, file.policy.unprivileged);
        put(&mut settings.privileged, file.policy.privileged);
        put(&mut settings.pods, file.policy.pods);
        settings.facts_root = file.thruway.facts_root;
        Ok(settings)
    }
}

fn put<T>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The names of all capabilities, for a sentence.
pub fn all() -> String {
    Capability::ALL.map(Capability::word).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_the_default_of_its_writer() {
        assert_eq!(Settings::read("", Written::Ours).unwrap(), Settings::default());
        let theirs = Settings::read("", Written::Nvidia).unwrap();
        assert_eq!(theirs, Settings { pods: Pods::Allow, ..Settings::default() });
    }

    #[test]
    fn nvidias_keys_are_read_under_their_names() {
        let text = r#"
disable-require = true
swarm-resource = "DOCKER_RESOURCE_GPU, X"
accept-nvidia-visible-devices-envvar-when-unprivileged = false
accept-nvidia-visible-devices-as-volume-mounts = true
supported-driver-capabilities = "utility,compute"
some-key-of-tomorrow = { a = 1 }
[nvidia-container-cli]
no-cgroups = true
ldconfig = "@/sbin/ldconfig"
[nvidia-container-runtime]
debug = "/var/log/x"
runtimes = ["crun"]
mode = "cdi"
[nvidia-container-runtime.modes.cdi]
default-kind = "x.com/gpu"
annotation-prefixes = ["a/"]
spec-dirs = ["/a"]
[nvidia-container-runtime-hook]
skip-mode-detection = true
[features]
ignore-imex-channel-requests = true
"#;
        let settings = Settings::read(text, Written::Nvidia).unwrap();
        let wanted = Settings {
            disable_require: true,
            swarm_resource: vec!["DOCKER_RESOURCE_GPU".into(), "X".into()],
            accept_volume_mounts: true,
            supported: Capabilities::DEFAULT,
            no_cgroups: true,
            debug: Some("/var/log/x".into()),
            runtimes: vec!["crun".into()],
            mode: "cdi".into(),
            default_kind: "x.com/gpu".into(),
            annotation_prefixes: vec!["a/".into()],
            spec_dirs: vec!["/a".into()],
            skip_mode_detection: true,
            ignore_imex: true,
            unprivileged: ByEnv::Ignore,
            privileged: ByEnv::Allow,
            pods: Pods::Grant,
            facts_root: String::new(),
        };
        assert_eq!(settings, wanted);
    }

    #[test]
    fn a_policy_that_would_not_be_kept_is_an_error() {
        let ok = Settings::read("[policy]\nunprivileged='refuse'\nprivileged='ignore'\npods='refuse'", Written::Nvidia);
        let ok = ok.unwrap();
        assert_eq!((ok.unprivileged, ok.privileged, ok.pods), (ByEnv::Refuse, ByEnv::Ignore, Pods::Refuse));
        for text in
            ["[policy]\npod='grant'", "[policy]\npods='perhaps'", "policy=1", "supported-driver-capabilities='tea'"]
        {
            assert!(Settings::read(text, Written::Ours).is_err(), "{text}");
        }
    }
}
