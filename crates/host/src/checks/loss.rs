//! What the host loses when the card's group goes to a VM: network and disks.

use model::{Bdf, Fix, Seen, Source, Trouble, Verdict};

use super::{group, unknown, wanted};
use crate::facts::{Facts, NetUse, Target};

pub(super) fn network_all(facts: &Facts) -> Verdict {
    wanted(facts, network)
}

pub(super) fn disk_all(facts: &Facts) -> Verdict {
    wanted(facts, disk)
}

/// Everything that goes with the cards: their functions and the rest of their groups.
fn going(facts: &Facts, targets: &[Target<'_>]) -> Vec<Bdf> {
    let own = targets.iter().flat_map(|target| target.functions.iter().map(|f| f.bdf));
    let others = targets.iter().flat_map(|target| group::strangers(facts, target, targets)).map(|f| f.bdf);
    own.chain(others).collect()
}

/// A group that could not be seen may hold anything.
fn blind(targets: &[Target<'_>]) -> Option<Verdict> {
    let target = targets.iter().find(|target| target.card.group.unreadable().is_some())?;
    let Seen::Unreadable(reason) = &target.card.group else { return None };
    Some(unknown(reason, format!("the IOMMU group of {}", target.name())))
}

fn other_slot() -> Fix {
    Fix {
        does: "move the card to a slot with a group of its own".into(),
        paste: vec!["thruway gpus".into()],
        costs: vec!["the machine is off meanwhile".into()],
        undo: "move it back".into(),
    }
}

pub(crate) fn network(facts: &Facts, targets: &[Target<'_>]) -> Verdict {
    if let Some(verdict) = blind(targets) {
        return verdict;
    }
    let going = going(facts, targets);
    let lost = facts.usage.nets.iter().filter(|net| going.contains(&net.bdf));
    let mut lost: Vec<&NetUse> = lost.filter(|net| net.up || net.route.is_some() || !net.ssh.is_empty()).collect();
    // The worst first: the default route, then somebody's session.
    lost.sort_by_key(|net| (net.route.is_none(), net.ssh.is_empty()));
    let Some(net) = lost.first() else { return Verdict::Pass };
    let says = match (&net.route, net.ssh.as_slice()) {
        (Some(_), _) => format!("the host loses its network: {} goes to the VM with the card's group", net.name),
        (None, []) => format!("the host loses {}, which is up: it goes to the VM with the card's group", net.name),
        (None, [_, ..]) => {
            format!("an SSH session comes in by {}, which goes to the VM with the card's group", net.name)
        }
    };
    let mut trouble = Trouble::new(says)
        .seen(Source::file(format!("/sys/class/net/{}", net.name)), format!("{}, in the card's IOMMU group", net.bdf));
    if let Some(route) = &net.route {
        trouble = trouble.seen(Source::file("/proc/net/route"), format!("the default route leaves by {route}"));
    }
    for peer in lost.iter().flat_map(|net| &net.ssh) {
        trouble = trouble.seen(Source::file("/proc/net/tcp"), format!("an SSH session from {peer} comes in by it"));
    }
    let trouble = trouble.fix(other_slot());
    if net.route.is_some() || !net.ssh.is_empty() { Verdict::Fail(trouble) } else { Verdict::Warn(trouble) }
}

pub(crate) fn disk(facts: &Facts, targets: &[Target<'_>]) -> Verdict {
    if let Some(verdict) = blind(targets) {
        return verdict;
    }
    let going = going(facts, targets);
    let lost: Vec<_> = facts.usage.disks.iter().filter(|disk| going.contains(&disk.bdf)).collect();
    let Some(disk) = lost.first() else { return Verdict::Pass };
    let names: Vec<String> = lost.iter().map(|disk| format!("{} ({})", disk.name, disk.on)).collect();
    Verdict::Fail(
        Trouble::new(format!("the host loses disks that it uses: {}", names.join(", ")))
            .seen(
                Source::file(format!("/sys/class/block/{}", disk.name)),
                format!("{}, in the card's IOMMU group", disk.bdf),
            )
            .fix(other_slot()),
    )
}
