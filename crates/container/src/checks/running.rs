//! Containers that run: have they still what they were given.

use model::{About, Check, CheckId, Fix, Layer, Seen, Source, Trouble, Verdict};

use super::{first, unknown};
use crate::Facts;

pub(super) const LOST_CARD: Check<Facts> = Check {
    about: About {
        id: CheckId("container/card-lost-in-container"),
        layer: Layer::Container,
        title: "running containers can still open the GPU nodes that they were given",
        why: "A reload of systemd (any package's update does one), `docker update` or the kubelet's CPU manager writes a \
              container's device rules anew. Nodes that the rules' owner does not know go: the program in the container \
              runs on until it opens the card again, and then says `Failed to initialize NVML: Unknown Error`.",
        source: "NVIDIA's notice, nvidia-container-toolkit issue 48; kernel documentation, cgroup-v1/devices",
    },
    run: |facts| {
        if let Some(verdict) = first(facts) {
            return verdict;
        }
        let containers = match &facts.containers {
            Seen::Is(containers) => containers,
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "Docker's running containers"),
        };
        let mut looked = false;
        let mut trouble: Option<Trouble> = None;
        for one in containers {
            match &one.lost {
                Seen::Absent => {}
                Seen::Unreadable(reason) => return unknown(reason, format!("the device rules of {}", one.name)),
                Seen::Is(lost) => {
                    looked = true;
                    for node in lost {
                        let so_far = trouble.take().unwrap_or_else(|| {
                            Trouble::new(format!(
                                "container {} has lost its GPU: it cannot open {node} any more",
                                one.name
                            ))
                        });
                        let value = format!("{}: no rule lets it open {node}", one.name);
                        trouble = Some(so_far.seen(Source::Rule("devices.list of its cgroup".to_owned()), value));
                    }
                }
            }
        }
        match trouble {
            Some(trouble) => Verdict::Fail(
                trouble.fix(
                    Fix::by_hand(
                        "start it again, once the links are there that systemd knows the nodes by",
                        &["thruway explain container/dev-char-links", "docker restart CONTAINER"],
                        "nothing to take back",
                    )
                    .costs("the container stops and starts"),
                ),
            ),
            None if looked => Verdict::Pass,
            None => Verdict::NotApplicable,
        }
    },
};
