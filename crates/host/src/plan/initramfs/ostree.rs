//! ostree: the image's own initramfs is replaced by one that is made on this machine, out of its /etc
//! (rpm-ostree(1), initramfs).

use model::{Refusal, Seen, Tool};

use super::Steps;

pub(super) fn regenerate(steps: &mut Steps<'_>) {
    // It refuses to do again what is set already, and what undo should go back to would not be known.
    if steps.facts.boot.local_initramfs == Seen::Is(true) {
        return steps.plan.refusals.push(Refusal {
            because: "host/initramfs-stale".into(),
            says: "rpm-ostree makes this machine's initramfs already, and makes it again only for a new deployment"
                .into(),
            instead: "rpm-ostree initramfs --disable, then plan and apply; thruway switches it on again".into(),
        });
    }
    steps.run(Tool::OstreeInitramfs, "host/initramfs-stale");
}
