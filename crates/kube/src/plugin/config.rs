//! How cards are offered: NVIDIA's config file as it is, its flags and environment, and a few keys of our own.

use std::collections::BTreeSet;

use serde::Serialize;

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
            fail_on_init_error: true,
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
    /// Milliseconds between looks.
    pub interval: u64,
    /// NFD's feature file; `None`: labels are set through the API.
    pub output_file: Option<String>,
    pub machine_type_file: String,
}

impl Default for LabelWish {
    fn default() -> Self {
        LabelWish {
            oneshot: false,
            no_timestamp: false,
            interval: 60_000,
            output_file: None,
            machine_type_file: "/sys/class/dmi/id/product_name".into(),
        }
    }
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
