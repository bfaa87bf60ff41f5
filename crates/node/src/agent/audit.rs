//! Pods that use a card which the kubelet did not give them, as `NVIDIA_VISIBLE_DEVICES=all` does it: looked for by the clock, and
//! told as Events of those pods. Whoever may not see the machine's processes (no hostPID) finds none.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use kube::plugin::Found;
use kube::why::{Here, ungranted};
use machine::Root;
use model::Seen;
use tokio::sync::mpsc::Sender;

use crate::cli::cluster::runtime;
use crate::cli::doctor::{grants, users};
use crate::events::{About, Notice};

/// Starts the thread; it ends when nobody hears it any more.
///
/// # Errors
/// No thread could be had.
pub fn start(machine: Root, pod_resources: PathBuf, every: Duration, tell: Sender<Notice>) -> std::io::Result<()> {
    let look = move || {
        while !tell.is_closed() {
            std::thread::sleep(every);
            for notice in notices(&machine, &pod_resources) {
                // more than fit are no news
                let _ = tell.try_send(notice);
            }
        }
    };
    std::thread::Builder::new().name("audit".into()).stack_size(512 << 10).spawn(look).map(drop)
}

fn notices(machine: &Root, pod_resources: &std::path::Path) -> Vec<Notice> {
    let inventory = gpu::observe(machine);
    let users = users(machine, &inventory);
    // nobody, as on most nodes at most times: the kubelet is not asked
    if !users.iter().any(|used| used.pod.is_some()) {
        return Vec::new();
    }
    let Ok(runtime) = runtime() else { return Vec::new() };
    let here = Here {
        found: Found::default(),
        cdi: BTreeSet::new(),
        sockets: Seen::Absent,
        registered: Seen::Absent,
        grants: runtime.block_on(grants(pod_resources.to_owned())),
        users,
    };
    let notice = |used: &&kube::why::Use| {
        let (namespace, name) = used.pod.as_deref()?.split_once('/')?;
        let note = format!(
            "{} uses {}, which the scheduler did not give it (NVIDIA_VISIBLE_DEVICES, or a hostPath): another pod may be given \
             the same card. Let its workload ask: thruway kube patch deployment/NAME --gpus 1",
            used.who, used.card
        );
        Some(Notice {
            about: About::Pod { namespace: namespace.to_owned(), name: name.to_owned() },
            subject: used.card.clone(),
            warning: true,
            reason: "GpuWithoutGrant",
            action: "ObserveGpu",
            note,
        })
    };
    ungranted(&here).iter().filter_map(notice).collect()
}
