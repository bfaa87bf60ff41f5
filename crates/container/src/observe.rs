//! Machine → facts.

use cdi::GpuNodes;
use gpu::Inventory;
use machine::{Machine, MachineExt};
use model::{Digest, Reason, Seen};

use crate::engines;
use crate::facts::{CharLink, Facts, SpecFile, SpecState};

/// Looks at engines, specs and containers. Reads only.
pub fn observe(machine: &dyn Machine, inventory: &Inventory) -> Facts {
    let packages = engines::packages(machine);
    let wanted = cdi::generate(machine, inventory, &cdi::Options::default()).map(Box::new);
    let driver = inventory.driver.kernel.clone();
    let gpus = match &wanted {
        Ok(generated) => generated.gpus.clone(),
        Err(_) => cdi::gpu_nodes(machine, inventory, &mut Vec::new()),
    };
    let (specs, specs_unseen) = specs(machine, driver.get().map(String::as_str), &gpus);
    let docker = engines::docker(machine, &packages);
    let cards = inventory.nvidia().map(|card| {
        let identity = &card.identity;
        let subsystem = identity.subsystem.map(|id| id.to_string()).unwrap_or_default();
        let value = format!("{} {} {subsystem}", identity.bdf, identity.id);
        (format!("{} ({})", identity.bdf.short(), card.short_name()), value)
    });
    Facts {
        looked: inventory.looked.clone(),
        programs: machine.list("/usr/bin").map(|_| ()),
        cards: cards.collect(),
        driver,
        snap: ["/snap/bin/docker", "/var/lib/snapd/snap/bin/docker"].iter().any(|path| machine.exists(path)),
        control_nodes: ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-modeset"]
            .into_iter()
            .filter(|path| machine.stat(path).is().is_some_and(|stat| stat.rdev.is_some()))
            .map(str::to_owned)
            .collect(),
        containers: if docker.is_some() { engines::containers(machine) } else { Seen::Absent },
        docker,
        podman: engines::podman(machine, &packages),
        containerd: engines::containerd(machine, &packages),
        crio: engines::crio(machine, &packages),
        drop_ins: engines::drop_ins(machine),
        rancher: engines::rancher(machine),
        rootless: engines::rootless(machine),
        own: engines::own(machine),
        toolkit: engines::toolkit(machine, &packages),
        char_links: char_links(machine, &gpus),
        wanted,
        specs,
        specs_unseen,
    }
}

/// Every spec file that engines read, in their directories' rising priority.
fn specs(machine: &dyn Machine, running: Option<&str>, gpus: &[GpuNodes]) -> (Vec<SpecFile>, Vec<(String, Reason)>) {
    // by the directories' real names: /var/run is a link to /run on all but the oldest systems
    let dirs = cdi::SPEC_DIRS.map(|dir| machine.resolve(dir).is().unwrap_or_else(|| dir.to_owned()));
    let (files, unseen) = cdi::read_dirs(machine, &dirs);
    (files.into_iter().map(|file| spec(machine, file, running, gpus)).collect(), unseen)
}

fn spec(machine: &dyn Machine, file: cdi::SpecFile, running: Option<&str>, gpus: &[GpuNodes]) -> SpecFile {
    let state = match &file.state {
        cdi::State::Gone => SpecState::Unreadable(Reason::BadLink),
        cdi::State::Unreadable(reason) => SpecState::Unreadable(reason.clone()),
        cdi::State::Broken { line, says } => SpecState::Broken { line: *line, says: says.clone() },
        cdi::State::Spec(spec) => {
            let judged = cdi::judge(machine, spec, running, gpus);
            let lines =
                judged.faults.iter().map(|fault| Some(file.line(fault.needle())).filter(|line| *line > 0)).collect();
            SpecState::Parsed { problems: spec.problems(), spec: spec.clone(), judged, lines }
        }
    };
    SpecFile { digest: file.bytes.as_deref().map(Digest::of), path: file.path, state }
}

fn char_links(machine: &dyn Machine, gpus: &[GpuNodes]) -> Vec<CharLink> {
    let own = gpus.iter().flat_map(|gpu| gpu.nodes.iter().map(String::as_str));
    // DRM's nodes are known to sysfs, so udev makes their links.
    let nodes = own.filter(|path| path.starts_with("/dev/nvidia")).chain(cdi::CONTROL_NODES);
    let mut links = Vec::new();
    for node in nodes {
        let Some((major, minor)) = machine.stat(node).is().and_then(|stat| stat.rdev) else { continue };
        let link = format!("/dev/char/{major}:{minor}");
        let there = match machine.lstat(&link) {
            Seen::Is(_) => Seen::Is(true),
            Seen::Absent => Seen::Is(false),
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        };
        links.push(CharLink { node: node.to_owned(), link, there });
    }
    links
}
