//! Which spec: that of the cards, or one of the sets that a container must ask for by name.

use std::str::FromStr;

use formats::cdispec::{Device, Edits, Mount, Spec};
use machine::{FileKind, Machine, MachineExt as _};
use model::Seen;

use crate::edits::{HookWork, Place, in_order};
use crate::generate::{device, sealed};
use crate::options::Options;
use crate::{NoSpec, csv, gather_here, wsl};

/// What a spec is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The cards and their driver.
    Nvml,
    /// The one device of a Linux below Windows.
    Wsl,
    /// Tegra: NVIDIA's lists of what a container gets.
    Csv,
    /// Every node of the driver as one device, for what manages cards.
    Management,
    /// IMEX channels, by number.
    Imex,
    /// GPUDirect Storage.
    Gds,
    Gdrcopy,
    Mofed,
    Nvswitch,
}

impl Mode {
    pub const ALL: [(&str, Mode); 9] = [
        ("nvml", Mode::Nvml),
        ("wsl", Mode::Wsl),
        ("csv", Mode::Csv),
        ("management", Mode::Management),
        ("imex", Mode::Imex),
        ("gds", Mode::Gds),
        ("gdrcopy", Mode::Gdrcopy),
        ("mofed", Mode::Mofed),
        ("nvswitch", Mode::Nvswitch),
    ];

    /// What this machine is: WSL has /dev/dxg in place of a driver's nodes, a Jetson NVIDIA's lists in place of a discrete card.
    pub fn of(machine: &dyn Machine) -> Mode {
        let driver = machine.exists("/proc/driver/nvidia/version");
        if machine.exists("/dev/dxg") && !driver {
            return Mode::Wsl;
        }
        let tegra = machine.exists("/etc/nv_tegra_release")
            || machine
                .value("/sys/devices/soc0/family")
                .get()
                .is_some_and(|family| family.eq_ignore_ascii_case("tegra"));
        let cards = !machine.names("/proc/driver/nvidia/gpus").is_empty();
        if tegra && !cards && !csv::files(machine, &[]).is_empty() { Mode::Csv } else { Mode::Nvml }
    }

    /// Vendor and class.
    pub fn kind(self) -> &'static str {
        match self {
            Mode::Nvml | Mode::Wsl | Mode::Csv => crate::KIND,
            Mode::Management => "management.nvidia.com/gpu",
            Mode::Imex => "nvidia.com/imex-channel",
            Mode::Gds => "nvidia.com/gds",
            Mode::Gdrcopy => "nvidia.com/gdrcopy",
            Mode::Mofed => "nvidia.com/mofed",
            Mode::Nvswitch => "nvidia.com/nvswitch",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        let known = Mode::ALL.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode);
        let names: Vec<&str> = Mode::ALL.iter().map(|(name, _)| *name).collect();
        known.ok_or_else(|| format!("no mode is called {text:?}; there are auto, {}", names.join(", ")))
    }
}

/// A spec of any mode, and what a reader should know of it.
///
/// # Errors
/// Why there is none: of a set that is not on this machine, [`NoSpec::NotHere`].
pub fn generate_mode(machine: &dyn Machine, mode: Mode, options: &Options) -> Result<(Spec, Vec<String>), NoSpec> {
    let options =
        &Options { kind: Some(options.kind.clone().unwrap_or_else(|| mode.kind().to_owned())), ..options.clone() };
    match mode {
        Mode::Nvml => {
            let made = gather_here(machine, options)?.spec(machine, options)?;
            Ok((made.spec, made.notes))
        }
        Mode::Wsl => wsl::generate(machine, options),
        Mode::Csv => csv::generate(machine, options),
        Mode::Management => management(machine, options),
        Mode::Imex => imex(machine, options),
        Mode::Gds => gds(machine, options),
        Mode::Gdrcopy => {
            set(machine, options, &nodes_in(machine, options, "/dev", |name| name == "gdrdrv"), "/dev/gdrdrv")
        }
        Mode::Mofed => {
            let ours = |name: &str| name.starts_with("uverbs") || name == "rdma_cm";
            set(machine, options, &nodes_in(machine, options, "/dev/infiniband", ours), "/dev/infiniband/uverbs*")
        }
        Mode::Nvswitch => {
            let ours = |name: &str| name == "nvidia-nvswitchctl" || numbered(name, "nvidia-nvswitch");
            set(machine, options, &nodes_in(machine, options, "/dev", ours), "/dev/nvidia-nvswitchctl")
        }
    }
}

fn numbered(name: &str, stem: &str) -> bool {
    name.strip_prefix(stem).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// The character devices of a directory whose names are wanted, sorted.
fn nodes_in(machine: &dyn Machine, options: &Options, dir: &str, want: impl Fn(&str) -> bool) -> Vec<String> {
    let root = options.dev_root.as_deref().unwrap_or_default().trim_end_matches('/');
    let names = machine.names(&format!("{root}{dir}"));
    let paths = names.iter().filter(|name| want(name)).map(|name| format!("{dir}/{name}"));
    let is_node = |path: &String| match machine.stat(&format!("{root}{path}")) {
        Seen::Is(stat) => stat.kind == FileKind::CharDevice,
        Seen::Absent => false,
        Seen::Unreadable(_) => true,
    };
    paths.filter(is_node).collect()
}

fn not_here(what: &str) -> NoSpec {
    NoSpec::NotHere(format!("{what} is not on this machine"))
}

/// One device `all` of these nodes.
fn set(machine: &dyn Machine, options: &Options, nodes: &[String], what: &str) -> Result<(Spec, Vec<String>), NoSpec> {
    if nodes.is_empty() {
        return Err(not_here(what));
    }
    let place = Place::new(machine, options);
    let devices = vec![device(machine, &place, "all".to_owned(), nodes)];
    Ok((sealed(kind(options), devices, common(Vec::new())), Vec::new()))
}

fn kind(options: &Options) -> &str {
    options.kind.as_deref().unwrap_or(crate::KIND)
}

/// What stands in every spec of ours.
pub(crate) fn common(mounts: Vec<Mount>) -> Edits {
    Edits { env: vec!["NVIDIA_VISIBLE_DEVICES=void".to_owned()], mounts, ..Edits::default() }
}

fn imex(machine: &dyn Machine, options: &Options) -> Result<(Spec, Vec<String>), NoSpec> {
    let dir = "/dev/nvidia-caps-imex-channels";
    let place = Place::new(machine, options);
    let nodes = nodes_in(machine, options, dir, |name| numbered(name, "channel"));
    let mut devices: Vec<Device> = Vec::new();
    for path in &nodes {
        let number = path.rsplit_once("/channel").map_or("", |(_, number)| number);
        if options.only.is_empty() || options.only.iter().any(|only| only == "all" || only == number) {
            devices.push(device(machine, &place, number.to_owned(), std::slice::from_ref(path)));
        }
    }
    if devices.is_empty() {
        return Err(not_here(&format!("{dir}/channel*")));
    }
    Ok((sealed(kind(options), devices, common(Vec::new())), Vec::new()))
}

fn gds(machine: &dyn Machine, options: &Options) -> Result<(Spec, Vec<String>), NoSpec> {
    let nodes = nodes_in(machine, options, "/dev", |name| numbered(name, "nvidia-fs"));
    let (mut spec, notes) = set(machine, options, &nodes, "/dev/nvidia-fs*")?;
    let place = Place::new(machine, options);
    let files = ["/run/udev", "/etc/cufile.json"];
    let mounts = files.into_iter().filter(|path| machine.exists(path)).map(|path| place.mount(path, path)).collect();
    spec.container_edits.mounts = in_order(mounts);
    Ok((spec, notes))
}

fn management(machine: &dyn Machine, options: &Options) -> Result<(Spec, Vec<String>), NoSpec> {
    let others = ["nvidia-fs", "nvidia-nvswitch", "nvidia-nvlink"];
    let mut nodes = nodes_in(machine, options, "/dev", |name| {
        name.starts_with("nvidia") && !others.iter().any(|other| name.starts_with(other))
    });
    for (dir, stem) in [("/dev/nvidia-caps", "nvidia-cap"), ("/dev/nvidia-caps-imex-channels", "channel")] {
        nodes.extend(nodes_in(machine, options, dir, |name| numbered(name, stem)));
    }
    if nodes.is_empty() {
        return Err(NoSpec::NoDriver);
    }
    let gathered = gather_here(machine, options)?;
    let files = gathered.files(machine, options.driver_root.as_deref())?;
    let place = Place::new(machine, options);
    let devices = vec![device(machine, &place, "all".to_owned(), &nodes)];
    // who manages cards may make nodes: no guard
    let mut work = HookWork { driver: Some(gathered.version.clone()), ..HookWork::default() };
    let mounts = in_order(place.driver(&files, &mut work));
    let edits = Edits { hooks: place.hook(&work), ..common(mounts) };
    Ok((sealed(kind(options), devices, edits), files.notes))
}
