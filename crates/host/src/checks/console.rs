//! The host's picture: its last console, and the firmware's framebuffer in the card's memory.

use model::{Fix, Seen, Source, Trouble, Verdict};

use super::{unknown, wanted};
use crate::facts::{Facts, Target, is_vfio};

pub(super) fn lost_all(facts: &Facts) -> Verdict {
    wanted(facts, lost)
}

pub(crate) fn lost(facts: &Facts, targets: &[Target<'_>]) -> Verdict {
    let given = |bdf| targets.iter().any(|target| target.card.identity.bdf == bdf);
    // 3D controllers (0302) have no connector; a board's BMC is a VGA controller like any other.
    let screens = || facts.inventory.cards.iter().filter(|card| card.class >> 8 == 0x0300 || card.class >> 8 == 0x0380);
    let stays = screens().any(|card| !given(card.identity.bdf) && !card.driver.get().is_some_and(|d| is_vfio(d)));
    if stays || !facts.usage.serial.is_empty() {
        return Verdict::Pass;
    }
    let Some(target) =
        targets.iter().find(|target| screens().any(|card| card.identity.bdf == target.card.identity.bdf))
    else {
        return Verdict::Pass;
    };
    let bdf = target.card.identity.bdf;
    let mut trouble = Trouble::new(format!(
        "{} is this host's only screen: without it the host is reached by network alone",
        target.name()
    ));
    if target.card.boot_vga {
        trouble = trouble.seen(Source::file(format!("/sys/bus/pci/devices/{bdf}/boot_vga")), "1");
    }
    let fix = Fix::planned(
        "accept it, once ssh or the web interface is known to answer",
        format!("thruway host plan --give {} --allow host/console-lost", bdf.short()),
    );
    Verdict::Warn(
        trouble
            .seen(Source::file("/proc/consoles"), "no serial console")
            .fix(fix.costs("no picture at this machine after the boot loader's")),
    )
}

pub(super) fn bootfb(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| match &facts.usage.bootfb {
        Seen::Absent => Verdict::NotApplicable,
        Seen::Unreadable(reason) => unknown(reason, "/proc/iomem"),
        Seen::Is(found) => {
            let hit = found.iter().find(|(bdf, _)| targets.iter().any(|target| target.card.identity.bdf == *bdf));
            let Some((bdf, name)) = hit else { return Verdict::Pass };
            let fix = Fix {
                does: "choose another display as the first one in the firmware's set-up; where there is none, add initcall_blacklist=sysfb_init to the kernel command line".into(),
                paste: Vec::new(),
                costs: vec!["a reboot".into(), "no picture of the early boot".into()],
                undo: "choose the card again, or take the token away".into(),
            };
            Verdict::Fail(
                Trouble::new(format!(
                    "the firmware's framebuffer still lies in the memory of {}, so vfio-pci cannot reserve it",
                    bdf.short()
                ))
                .seen(Source::file("/proc/iomem"), name.clone())
                .fix(fix),
            )
        }
    })
}
