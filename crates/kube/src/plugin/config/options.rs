//! The options that are said in three ways: by a flag, by the environment, in the file's `flags`. One table for all.
//!
//! A flag stands over the environment, and both over the file, as NVIDIA's plugin has it. An empty variable says nothing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::file::interval;
use super::read::{At, BadConfig, Read, go_duration};
use super::{Config, IdStrategy, ListStrategy, MigStrategy, SharedPolicy};

/// One option.
pub struct Opt {
    /// Without the dashes; empty: by the environment alone.
    pub flag: &'static str,
    /// NVIDIA's variables, first one first.
    pub env: &'static [&'static str],
    /// The file's key below `flags`, with its group ("plugin", "gfd"); empty: not in a file.
    key: (Option<&'static str>, &'static str),
    /// What it says, for help.
    pub help: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

const PLUGIN: Option<&str> = Some("plugin");
const GFD: Option<&str> = Some("gfd");

/// Every option, in the order of help.
#[rustfmt::skip]
pub const OPTIONS: &[Opt] = &[
    Opt { flag: "mig-strategy", env: &["MIG_STRATEGY", "GFD_MIG_STRATEGY"], key: (None, "migStrategy"), help: "how cards with MIG are offered: none, single, mixed", set: mig },
    Opt { flag: "fail-on-init-error", env: &["FAIL_ON_INIT_ERROR", "GFD_FAIL_ON_INIT_ERROR"], key: (None, "failOnInitError"), help: "end with an error where no driver runs at the start, as NVIDIA's plugin does; else wait for one", set: |c, t| flag(t, &mut c.fail_on_init_error) },
    Opt { flag: "driver-root", env: &["NVIDIA_DRIVER_ROOT"], key: (None, "nvidiaDriverRoot"), help: "the host's directory with the driver", set: |c, t| path(t, &mut c.driver_root) },
    Opt { flag: "dev-root", env: &["NVIDIA_DEV_ROOT"], key: (None, "nvidiaDevRoot"), help: "the host's directory with /dev", set: dev_root },
    Opt { flag: "driver-root-ctr-path", env: &["DRIVER_ROOT_CTR_PATH"], key: (PLUGIN, "containerDriverRoot"), help: "where the driver's root is in this container", set: |c, t| path(t, &mut c.container_driver_root) },
    Opt { flag: "device-list-strategy", env: &["DEVICE_LIST_STRATEGY"], key: (PLUGIN, "deviceListStrategy"), help: "how devices are handed over: cdi-cri, cdi-annotations, envvar, volume-mounts", set: list },
    Opt { flag: "device-id-strategy", env: &["DEVICE_ID_STRATEGY"], key: (PLUGIN, "deviceIDStrategy"), help: "what a runtime is told: uuid, index", set: ids },
    Opt { flag: "pass-device-specs", env: &["PASS_DEVICE_SPECS"], key: (PLUGIN, "passDeviceSpecs"), help: "hand over the device nodes too", set: |c, t| flag(t, &mut c.pass_device_specs) },
    Opt { flag: "cdi-annotation-prefix", env: &["CDI_ANNOTATION_PREFIX"], key: (PLUGIN, "cdiAnnotationPrefix"), help: "what a CDI annotation's key begins with", set: prefix },
    Opt { flag: "shared-devices-allocation-policy", env: &["SHARED_DEVICES_ALLOCATION_POLICY"], key: (PLUGIN, "sharedDevicesAllocationPolicy"), help: "replicas and instances: distributed over the GPUs, or packed", set: policy },
    Opt { flag: "gds-enabled", env: &["GDS_ENABLED"], key: (None, "gdsEnabled"), help: "GPUDirect Storage in containers", set: |c, t| flag(t, &mut c.gds) },
    Opt { flag: "gdrcopy-enabled", env: &["GDRCOPY_ENABLED"], key: (None, "gdrcopyEnabled"), help: "GDRCopy in containers", set: |c, t| flag(t, &mut c.gdrcopy) },
    Opt { flag: "mofed-enabled", env: &["MOFED_ENABLED"], key: (None, "mofedEnabled"), help: "Mellanox OFED in containers", set: |c, t| flag(t, &mut c.mofed) },
    Opt { flag: "imex-channel-ids", env: &["IMEX_CHANNEL_IDS"], key: (None, ""), help: "IMEX channels for containers with a GPU: 0", set: imex },
    Opt { flag: "imex-required", env: &["IMEX_REQUIRED"], key: (None, ""), help: "do not start where the channel's node is missing", set: |c, t| flag(t, &mut c.imex.required) },
    Opt { flag: "cdi-disable-hooks", env: &["CDI_DISABLE_HOOKS"], key: (None, ""), help: "works of the hook that specs go without", set: hooks },
    Opt { flag: "include", env: &["THRUWAY_INCLUDE"], key: (None, ""), help: "only these cards, by UUID, address, index or product", set: |c, t| cards(t, &mut c.include) },
    Opt { flag: "exclude", env: &["THRUWAY_EXCLUDE"], key: (None, ""), help: "never these cards", set: |c, t| cards(t, &mut c.exclude) },
    Opt { flag: "oneshot", env: &["GFD_ONESHOT"], key: (GFD, "oneshot"), help: "label once and end", set: |c, t| flag(t, &mut c.labels.oneshot) },
    Opt { flag: "no-timestamp", env: &["GFD_NO_TIMESTAMP"], key: (GFD, "noTimestamp"), help: "no label with the time", set: |c, t| flag(t, &mut c.labels.no_timestamp) },
    Opt { flag: "sleep-interval", env: &["GFD_SLEEP_INTERVAL"], key: (GFD, "sleepInterval"), help: "time between looks for labels", set: |c, t| interval(&mut c.labels, t, go_duration(t)) },
    Opt { flag: "output-file", env: &["GFD_OUTPUT_FILE"], key: (GFD, "outputFile"), help: "write labels into this file for node feature discovery", set: output },
    Opt { flag: "machine-type-file", env: &["GFD_MACHINE_TYPE_FILE"], key: (GFD, "machineTypeFile"), help: "where the machine's product name is", set: |c, t| path(t, &mut c.labels.machine_type_file) },
    Opt { flag: "", env: &["DP_DISABLE_HEALTHCHECKS"], key: (None, ""), help: "all, xids, or numbers of Xids that are ignored", set: disable },
    Opt { flag: "", env: &["DP_ENABLE_HEALTHCHECKS"], key: (None, ""), help: "all, or numbers of Xids that count in any case", set: enable },
    // what has no meaning here, with the reason
    Opt { flag: "device-discovery-strategy", env: &["DEVICE_DISCOVERY_STRATEGY"], key: (None, "deviceDiscoveryStrategy"), help: "auto or nvml", set: discovery },
    Opt { flag: "nvidia-cdi-hook-path", env: &["NVIDIA_CDI_HOOK_PATH", "NVIDIA_CTK_PATH"], key: (PLUGIN, "nvidiaCTKPath"), help: "passed over: specs name thruway-hook where it is installed", set: |c, t| not_here(c, "nvidiaCTKPath", t, "specs name thruway-hook where it is installed") },
    Opt { flag: "", env: &[], key: (PLUGIN, "nvidiaCDIHookPath"), help: "", set: |c, t| not_here(c, "nvidiaCDIHookPath", t, "specs name thruway-hook where it is installed") },
    Opt { flag: "use-node-feature-api", env: &["USE_NODE_FEATURE_API", "GFD_USE_NODE_FEATURE_API"], key: (None, "useNodeFeatureAPI"), help: "passed over: labels go to the Node itself, or into a file", set: |c, t| not_here(c, "useNodeFeatureAPI", t, "labels go to the Node itself, or into a file (output-file)") },
    Opt { flag: "mps-root", env: &["MPS_ROOT"], key: (None, "mpsRoot"), help: "passed over: MPS is not offered", set: |c, t| not_here(c, "mpsRoot", t, "MPS is not offered") },
];

fn flag(text: &str, into: &mut bool) -> Result<(), String> {
    // Go's strconv.ParseBool, by which NVIDIA's plugin reads them
    *into = match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => return Err("is to be true or false".into()),
    };
    Ok(())
}

fn path(text: &str, into: &mut String) -> Result<(), String> {
    if !text.starts_with('/') || text.contains('\0') || text.split('/').any(|part| part == "..") {
        return Err("is to be a path from the root, without ..".into());
    }
    *into = text.to_owned();
    Ok(())
}

fn dev_root(config: &mut Config, text: &str) -> Result<(), String> {
    let mut root = String::new();
    path(text, &mut root)?;
    config.dev_root = Some(root);
    Ok(())
}

fn mig(config: &mut Config, text: &str) -> Result<(), String> {
    config.mig = match text {
        "none" => MigStrategy::None,
        "single" => MigStrategy::Single,
        "mixed" => MigStrategy::Mixed,
        _ => return Err("is to be none, single or mixed".into()),
    };
    Ok(())
}

fn ids(config: &mut Config, text: &str) -> Result<(), String> {
    config.ids = match text {
        "uuid" => IdStrategy::Uuid,
        "index" => IdStrategy::Index,
        _ => return Err("is to be uuid or index".into()),
    };
    Ok(())
}

fn policy(config: &mut Config, text: &str) -> Result<(), String> {
    config.shared_policy = match text {
        "distributed" => SharedPolicy::Distributed,
        "packed" => SharedPolicy::Packed,
        _ => return Err("is to be distributed or packed".into()),
    };
    Ok(())
}

fn list(config: &mut Config, text: &str) -> Result<(), String> {
    let one = |name: &str| match name {
        "envvar" => Ok(ListStrategy::Envvar),
        "volume-mounts" => Ok(ListStrategy::VolumeMounts),
        "cdi-annotations" => Ok(ListStrategy::CdiAnnotations),
        "cdi-cri" => Ok(ListStrategy::CdiCri),
        _ => {
            Err("is to be cdi-cri, cdi-annotations, envvar or volume-mounts, or several of them with commas".to_owned())
        }
    };
    let found = parts(text).map(one).collect::<Result<BTreeSet<_>, _>>()?;
    if found.is_empty() {
        return Err("names no way in which devices are handed over".into());
    }
    config.list = found;
    Ok(())
}

fn prefix(config: &mut Config, text: &str) -> Result<(), String> {
    let name = text.strip_suffix('/').unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if name.is_empty() || !name.chars().all(plain) {
        return Err("is to be a domain with a slash at its end, such as cdi.k8s.io/".into());
    }
    config.annotation_prefix = text.to_owned();
    Ok(())
}

fn imex(config: &mut Config, text: &str) -> Result<(), String> {
    let ids: Vec<&str> = parts(text).collect();
    config.imex.channels = match ids.as_slice() {
        [] => Vec::new(),
        ["0"] => vec![0],
        _ => return Err("is to be empty or 0".into()),
    };
    Ok(())
}

fn hooks(config: &mut Config, text: &str) -> Result<(), String> {
    config.disable_hooks = parts(text).map(str::to_owned).collect();
    Ok(())
}

fn cards(text: &str, into: &mut Vec<super::Which>) -> Result<(), String> {
    *into = parts(text).map(str::parse).collect::<Result<Vec<_>, _>>()?;
    Ok(())
}

fn output(config: &mut Config, text: &str) -> Result<(), String> {
    let mut file = String::new();
    path(text, &mut file)?;
    config.labels.output_file = Some(file);
    Ok(())
}

fn discovery(config: &mut Config, text: &str) -> Result<(), String> {
    match text {
        "auto" | "nvml" => Ok(()),
        "tegra" | "vfio" => {
            not_here(config, "deviceDiscoveryStrategy", text, "cards are found by their driver, as with auto")
        }
        _ => Err("is to be auto or nvml".into()),
    }
}

fn disable(config: &mut Config, text: &str) -> Result<(), String> {
    let strange = config.health.disable(text);
    config.notes.extend(strange);
    Ok(())
}

fn enable(config: &mut Config, text: &str) -> Result<(), String> {
    let strange = config.health.enable(text);
    config.notes.extend(strange);
    Ok(())
}

fn not_here(config: &mut Config, key: &str, text: &str, why: &str) -> Result<(), String> {
    // a chart writes every key, most of them as they are by default
    if !text.is_empty() && text != "/usr/bin/nvidia-ctk" && text != "true" {
        config.notes.push(format!("{key} is passed over: {why}"));
    }
    Ok(())
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// The keys of a group of the file's `flags`.
pub(super) fn keys(group: Option<&'static str>) -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|option| option.key).filter(move |(of, key)| *of == group && !key.is_empty()).map(|(_, key)| key)
}

/// Sets what a file's key says.
pub(super) fn set_key(config: &mut Config, group: Option<&str>, key: &str, at: &At<'_>) -> Read<()> {
    let Some(option) = OPTIONS.iter().find(|option| option.key == (group, key)) else { return Ok(()) };
    let text = match at.value {
        Value::Bool(flag) => flag.to_string(),
        // a time as a number is of nanoseconds
        Value::Number(number) => format!("{number}ns"),
        Value::Array(_) => at.texts()?.join(","),
        Value::String(text) => text.clone(),
        _ => return at.bad("is to be a text, a number or true or false"),
    };
    // an empty text is what a chart writes for "not said"
    if text.is_empty() {
        return Ok(());
    }
    (option.set)(config, &text).or_else(|says| at.bad(says))
}

impl Config {
    /// Puts flags and the environment over what the file said. `flags` are (name without dashes, value); a name twice: the
    /// last one. Whoever is not in [`OPTIONS`] is an error, so ask for what you do not pass first.
    ///
    /// # Errors
    /// The flag or variable, and what would be right.
    pub fn with(
        mut self,
        flags: &[(String, String)],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, BadConfig> {
        let bad = |at: String, says: String| BadConfig { line: 0, at, says };
        for (name, _) in flags {
            if !OPTIONS.iter().any(|option| !option.flag.is_empty() && option.flag == name) {
                return Err(bad(format!("--{name}"), "is no option of the device plugin".into()));
            }
        }
        for option in OPTIONS {
            let said = flags.iter().rev().find(|(name, _)| !option.flag.is_empty() && name == option.flag);
            let said = said.map(|(name, value)| (format!("--{name}"), value.clone())).or_else(|| {
                let told = |name: &&str| Some((name.to_string(), env(name).filter(|value| !value.is_empty())?));
                option.env.iter().find_map(told)
            });
            if let Some((name, value)) = said {
                (option.set)(&mut self, &value).map_err(|says| bad(name, says))?;
            }
        }
        Ok(self)
    }
}
