//! How cards are offered: NVIDIA's config file as it is, its flags and environment, and a few keys of our own.

mod file;
mod options;
mod read;

use std::collections::BTreeSet;

use serde::Serialize;

pub use options::{OPTIONS, Opt};
pub use read::BadConfig;

/// The whole configuration; [`Config::default`] is what holds where nothing is said.
///
/// One default is not NVIDIA's: devices are handed over by their CDI names (`cdi-cri`) and not by an environment variable,
/// which any container could set for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    pub mig: MigStrategy,
    /// Without a driver: end with an error (true), or wait for one.
    pub fail_on_init_error: bool,
    /// The host's directory with the driver: "/", "/run/nvidia/driver".
    pub driver_root: String,
    /// The host's directory with /dev; `None`: the driver's root.
    pub dev_root: Option<String>,
    /// Where the driver's root is in the agent's own container: "/driver-root".
    pub container_driver_root: String,
    /// How an answer names devices; never empty.
    pub list: BTreeSet<ListStrategy>,
    /// What a runtime is told: the kubelet is always told UUIDs.
    pub ids: IdStrategy,
    /// Device nodes too, for a kubelet whose CPU manager writes the device cgroup anew.
    pub pass_device_specs: bool,
    /// "cdi.k8s.io/".
    pub annotation_prefix: String,
    pub shared_policy: SharedPolicy,
    pub gds: bool,
    pub gdrcopy: bool,
    pub mofed: bool,
    /// Own resource names for products and MIG profiles, first match first.
    pub names: Vec<Naming>,
    pub mig_names: Vec<Naming>,
    /// Time-slicing; `None`: every device once.
    pub sharing: Option<Sharing>,
    pub imex: Imex,
    /// Of the hook's works, those that are not wanted: "all", or names as NVIDIA's tool has them.
    pub disable_hooks: Vec<String>,
    pub labels: LabelWish,
    /// Only these cards; empty: all.
    pub include: Vec<Which>,
    /// Never these, whatever `include` says.
    pub exclude: Vec<Which>,
    pub health: super::health::Rules,
    /// What the reader of the file should know: keys that are passed over, and why.
    pub notes: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mig: MigStrategy::None,
            fail_on_init_error: false,
            driver_root: "/".into(),
            dev_root: None,
            container_driver_root: "/driver-root".into(),
            list: [ListStrategy::CdiCri].into(),
            ids: IdStrategy::Uuid,
            pass_device_specs: false,
            annotation_prefix: "cdi.k8s.io/".into(),
            shared_policy: SharedPolicy::Distributed,
            gds: false,
            gdrcopy: false,
            mofed: false,
            names: Vec::new(),
            mig_names: Vec::new(),
            sharing: None,
            imex: Imex::default(),
            disable_hooks: Vec::new(),
            labels: LabelWish::default(),
            include: Vec::new(),
            exclude: Vec::new(),
            health: super::health::Rules::default(),
            notes: Vec::new(),
        }
    }
}

/// How cards that are cut are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MigStrategy {
    /// Whole cards alone. A card with MIG on cannot be used whole, so it is not offered (NVIDIA's plugin offers it).
    #[default]
    None,
    /// Every card is cut the same way; each instance is a `nvidia.com/gpu`.
    Single,
    /// Whole cards as `nvidia.com/gpu`, instances as `nvidia.com/mig-1g.5gb`.
    Mixed,
}

/// How an answer names the devices of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListStrategy {
    /// `NVIDIA_VISIBLE_DEVICES`.
    Envvar,
    /// One mount of /dev/null for each device below /var/run/nvidia-container-devices.
    VolumeMounts,
    /// An annotation of CDI names, which the kubelet hands to the runtime.
    CdiAnnotations,
    /// CDI names in the field made for them (kubelet 1.28 and later; KEP 4009).
    CdiCri,
}

/// What a runtime is told a device is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IdStrategy {
    #[default]
    Uuid,
    Index,
}

/// Which GPU's replica or instance is given first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SharedPolicy {
    /// Of the GPU that has given away the fewest.
    #[default]
    Distributed,
    /// Of the GPU that has given away the most.
    Packed,
}

/// A product or a profile (with `*` for anything) and its resource: "*-SXM4-40GB" and "nvidia.com/a100".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Naming {
    pub pattern: String,
    pub name: String,
}

/// Time-slicing: a device is offered several times. Memory and faults are not kept apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sharing {
    /// `nvidia.com/gpu.shared` in place of `nvidia.com/gpu`, where no other name is given.
    pub rename_by_default: bool,
    /// A container that asks for more than one is refused: more of them give it no more time.
    pub fail_requests_greater_than_one: bool,
    pub resources: Vec<Replicated>,
}

/// A resource whose devices are offered several times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replicated {
    /// "nvidia.com/gpu".
    pub name: String,
    pub rename: Option<String>,
    pub devices: Replicate,
    /// At least 2.
    pub replicas: u32,
}

/// Which of a resource's devices are replicated; the others stay what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Replicate {
    #[default]
    All,
    /// The first so many.
    Count(u32),
    /// By index, "G:M" or UUID.
    List(Vec<String>),
}

/// IMEX channels for containers with a GPU; NVIDIA's plugin and this one know channel 0 alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imex {
    pub channels: Vec<u32>,
    /// Refuse to start where its node is missing; else it is left out.
    pub required: bool,
}

/// What feature discovery is told; the labels themselves are [`crate::gfd`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LabelWish {
    pub oneshot: bool,
    pub no_timestamp: bool,
    /// Milliseconds between looks; none: once and never again.
    pub interval: Option<u64>,
    /// NFD's feature file; `None`: labels are set through the API.
    pub output_file: Option<String>,
    pub machine_type_file: String,
}

impl Default for LabelWish {
    fn default() -> Self {
        LabelWish {
            oneshot: false,
            no_timestamp: false,
            interval: Some(60_000),
            output_file: None,
            machine_type_file: "/sys/class/dmi/id/product_name".into(),
        }
    }
}

/// What every resource's name begins with.
pub const DOMAIN: &str = "nvidia.com/";

/// A resource's whole name out of what a file says: "gpu" and "nvidia.com/gpu" are one.
///
/// # Errors
/// What is wrong with it: another domain, more than 63 characters, a character that Kubernetes does not allow.
pub fn resource_name(text: &str) -> Result<String, String> {
    let short = text.strip_prefix(DOMAIN).unwrap_or(text);
    let whole = format!("{DOMAIN}{short}");
    if short.contains('/') {
        return Err(format!("\"{}\" is of another domain than {DOMAIN}", text.escape_debug()));
    }
    if whole.len() > super::offer::LONGEST {
        return Err(format!("{whole} has {} characters, and the kubelet takes {}", whole.len(), super::offer::LONGEST));
    }
    let edge = |part: &str| part.starts_with('-') || part.ends_with('-') || part.is_empty();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if short.split('.').any(|part| edge(part) || !part.chars().all(plain)) {
        return Err(format!(
            "\"{}\" is no resource name: small letters, digits, - and . with a letter or digit at both ends of each part",
            text.escape_debug()
        ));
    }
    Ok(whole)
}

/// True where a pattern, in which `*` stands for anything, is all of a text.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        // the first place is enough: whatever follows has the most room left then
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    true
}

/// Which cards an include or exclude list means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// "GPU-…" or "MIG-…".
    Uuid(String),
    Bdf(model::Bdf),
    /// NVML's.
    Index(u32),
    /// A product with `*` for anything, in any case: "*GT 1030*".
    Product(String),
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("an empty name means no card".into());
        }
        if text.starts_with("GPU-") || text.starts_with("MIG-") {
            return Ok(Which::Uuid(text.to_owned()));
        }
        if let Ok(index) = text.parse() {
            return Ok(Which::Index(index));
        }
        Ok(text.parse().map_or_else(|_| Which::Product(text.to_owned()), Which::Bdf))
    }
}

impl Which {
    /// Does it mean this card, or this instance of it?
    pub fn means(&self, gpu: &super::Gpu, part: Option<&super::Part>) -> bool {
        match self {
            Which::Uuid(uuid) => {
                gpu.uuid.as_ref() == Some(uuid) || part.is_some_and(|part| part.uuid.as_ref() == Some(uuid))
            }
            Which::Bdf(bdf) => gpu.bdf.same_slot(bdf),
            Which::Index(index) => gpu.index == *index,
            Which::Product(pattern) => matches(&pattern.to_lowercase(), &gpu.product.to_lowercase()),
        }
    }
}

impl Config {
    /// The host's directory with /dev.
    pub fn dev_root(&self) -> &str {
        self.dev_root.as_deref().unwrap_or(&self.driver_root)
    }

    /// Every device is handed over by its CDI name alone.
    pub fn cdi_only(&self) -> bool {
        self.list.iter().all(|one| matches!(one, ListStrategy::CdiAnnotations | ListStrategy::CdiCri))
    }

    /// The runtime must find CDI names.
    pub fn cdi(&self) -> bool {
        self.list.iter().any(|one| matches!(one, ListStrategy::CdiAnnotations | ListStrategy::CdiCri))
    }
}

#[cfg(test)]
mod tests;
