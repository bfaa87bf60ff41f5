//! `thruway mig`: the plan that cuts cards into MIG instances, and keeps the cut over a boot. Pure.

use std::collections::BTreeMap;

use gpu::mig::{self, Cut, Wish};
use gpu::{Card, Users, Who};
use machine::Machine;
use model::{
    Bdf, Before, Change, Content, Digest, Effective, Fact, Intent, Layer, MigLayout, MigOp, Op, Plan, Reason, Refusal,
    Risk, Seen, Source, Undo,
};
use serde::{Deserialize, Serialize};

/// What is to be cut again after each boot.
pub const KEPT: &str = "/etc/thruway/mig.json";
/// Who does it.
pub const UNIT: &str = "/etc/systemd/system/thruway-mig.service";
pub const WANTED: &str = "/etc/systemd/system/multi-user.target.d/50-thruway-mig.conf";
const FORM: u32 = 1;
const WHY: &str = "guest/mig-as-kept";

/// [`KEPT`] as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub form: u32,
    pub cards: Vec<KeptCard>,
}

/// One card's layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptCard {
    pub bdf: Bdf,
    /// NVML's: another card at the same address is not cut.
    pub uuid: String,
    pub layout: MigLayout,
}

impl Kept {
    /// The machine's.
    pub(crate) fn observe(machine: &dyn Machine) -> Fact<Kept> {
        let kept = machine.read(KEPT).and_then(|bytes| match Kept::read(&bytes) {
            Ok(kept) => Seen::Is(kept),
            Err(why) => Seen::Unreadable(Reason::Malformed(why)),
        });
        Fact::new(kept, Source::file(KEPT))
    }

    pub fn read(bytes: &[u8]) -> Result<Kept, String> {
        let kept: Kept = serde_json::from_slice(bytes).map_err(|error| format!("{KEPT}: {error}"))?;
        if kept.form > FORM {
            return Err(format!("{KEPT} is of form {}, this thruway reads up to {FORM}: update thruway", kept.form));
        }
        Ok(kept)
    }
}

/// One card, what it is cut into, and who would feel a new cut.
pub struct Subject<'a> {
    pub card: &'a Card,
    pub cut: Cut,
    pub users: Option<&'a Users>,
    pub wish: Wish,
}

/// The files of this plan, as they are.
pub struct Files {
    pub kept: Seen<Vec<u8>>,
    pub unit: Seen<Vec<u8>>,
    pub wanted: Seen<Vec<u8>>,
}

/// How far it goes.
#[derive(Clone, Debug)]
pub struct How {
    /// Nothing is cut now: the unit does it at the next boot, when nothing uses the card.
    pub at_boot: bool,
    /// The cut lasts until the next boot only.
    pub once: bool,
    /// thruway's own absolute path on the machine, which the unit starts.
    pub program: String,
}

pub fn plan(subjects: &[Subject<'_>], files: &Files, how: &How) -> Plan {
    let mut plan = Plan::new(Layer::Guest, &Intent::default(), BTreeMap::new());
    // judged by the card itself, right before it is cut
    plan.layers.clear();
    let kept = match &files.kept {
        Seen::Is(bytes) => match Kept::read(bytes) {
            Ok(kept) => kept,
            Err(why) => return refused(plan, why, "look at the file, and take it away if nothing needs it"),
        },
        Seen::Absent => Kept { form: FORM, cards: Vec::new() },
        Seen::Unreadable(reason) => {
            return refused(plan, format!("{KEPT} cannot be read: {reason}"), "run this as root");
        }
    };
    let mut wanted = kept.cards.clone();
    for subject in subjects {
        let bdf = subject.card.identity.bdf;
        let name = format!("{} ({})", bdf.short(), subject.card.short_name());
        let to = match subject.wish.layout(&subject.cut.profiles) {
            Ok(to) => to,
            Err(error) => {
                plan = refused(plan, format!("{name}: {error}"), "thruway mig list");
                continue;
            }
        };
        plan.intent.push(format!("{name}: {}", subject.wish));
        wanted.retain(|kept| kept.bdf != bdf);
        // An Ampere card keeps its mode over a boot: to be whole then, it must be made so.
        let at_boot = how.at_boot && subject.cut.now.enabled;
        if (to.enabled || at_boot) && !how.once {
            wanted.push(KeptCard { bdf, uuid: subject.cut.uuid.clone(), layout: to.clone() });
        }
        if !how.at_boot && !mig::same(&subject.cut.now, &to) {
            cut(&mut plan, subject, &name, to);
        }
    }
    wanted.sort_by_key(|kept| kept.bdf);
    if plan.refusals.is_empty() {
        keep(&mut plan, &Kept { form: FORM, cards: wanted }, files, how);
    }
    if plan.changes.iter().any(|change| matches!(change.op, Op::Mig(_))) {
        plan.notes.push(
            "whoever lists the card's parts must look again: CDI specs (thruway cdi generate), device plugins, exporters"
                .into(),
        );
    }
    plan
}

fn refused(mut plan: Plan, says: String, instead: &str) -> Plan {
    plan.refusals.push(Refusal { because: WHY.into(), says, instead: instead.into() });
    plan
}

fn cut(plan: &mut Plan, subject: &Subject<'_>, name: &str, to: MigLayout) {
    let now = &subject.cut.now;
    let gone: Vec<_> =
        now.instances.iter().filter(|it| !to.instances.iter().any(|new| mig::same_instance(it, new))).collect();
    // New instances beside the old ones disturb nobody.
    if (!gone.is_empty() || now.enabled != to.enabled)
        && let Some(says) = in_use(subject, name)
    {
        let instead = "stop them, or plan with --at-boot and reboot".to_owned();
        plan.refusals.push(Refusal { because: WHY.into(), says, instead });
        return;
    }
    let mut risk = Vec::new();
    if !gone.is_empty() {
        let names: Vec<&str> = gone.iter().map(|it| it.profile.as_str()).collect();
        risk.push(Risk::Outage(format!(
            "these instances of {name} go, with what would compute in them: {}",
            names.join(", ")
        )));
    }
    if now.enabled != to.enabled {
        risk.push(Risk::Outage(format!("{name} is reset, so nothing may use it meanwhile")));
    }
    let title = match to.enabled {
        true => format!("cut {name} into {}", mig::says(&to)),
        false => format!("make {name} whole again"),
    };
    plan.changes.push(Change {
        layer: Layer::Guest,
        title,
        op: Op::Mig(MigOp { bdf: subject.card.identity.bdf, uuid: subject.cut.uuid.clone(), from: now.clone(), to }),
        expects: Before::Nothing,
        because: vec![WHY.into()],
        risk,
        effective: Effective::Now,
        undo: Undo::Inverse,
    });
}

/// Who has the card open, in one sentence.
fn in_use(subject: &Subject<'_>, name: &str) -> Option<String> {
    let users = subject.users?;
    let who = |who: &Who, process: &str, pid: u32| match who {
        Who::Unit(unit) | Who::Desktop(unit) => unit.clone(),
        Who::Pod(pod) => format!("pod {pod}"),
        Who::Container(container) => format!("container {container}"),
        Who::SystemContainer(container) => format!("system container {container}"),
        Who::Vm(vm) => format!("VM {vm}"),
        Who::Process => format!("{process} (process {pid})"),
    };
    // It lets go by itself where the mode changes.
    let holds = users.processes.iter().filter(|user| user.name != "nvidia-persiste");
    let mut all: Vec<String> = holds.map(|user| who(&user.who, &user.name, user.pid)).collect();
    all.dedup();
    if all.is_empty() { None } else { Some(format!("{name} is in use by {}", all.join(", "))) }
}

/// The file, and the unit that reads it at boot.
fn keep(plan: &mut Plan, kept: &Kept, files: &Files, how: &How) {
    if kept.cards.is_empty() {
        for (path, was) in [(WANTED, &files.wanted), (UNIT, &files.unit), (KEPT, &files.kept)] {
            if let Seen::Is(bytes) = was {
                let op = Op::RemoveFile { path: path.into() };
                step(plan, "nothing is cut again at boot any more", op, Before::File(Digest::of(bytes)));
            }
        }
        return;
    }
    let text = serde_json::to_string_pretty(kept).unwrap_or_default() + "\n";
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    if !how.program.starts_with('/') || !how.program.chars().all(plain) {
        let says = format!("the unit that cuts again at boot cannot start {}", how.program);
        let instead = "install -m 0755 thruway /usr/local/bin/thruway, and plan with that one";
        plan.refusals.push(Refusal { because: WHY.into(), says, instead: instead.into() });
        return;
    }
    let wants = "# Written by thruway, which takes it back: thruway undo\n[Unit]\nWants=thruway-mig.service\n";
    write(plan, "keep the cut for the next boots", KEPT, text, &files.kept);
    write(plan, "cut again at each boot, before containers start", UNIT, unit(&how.program), &files.unit);
    write(plan, "have systemd start that unit", WANTED, wants.into(), &files.wanted);
}

fn write(plan: &mut Plan, title: &str, path: &str, text: String, was: &Seen<Vec<u8>>) {
    let expects = match was {
        Seen::Is(bytes) if *bytes == text.as_bytes() => return,
        Seen::Is(bytes) => Before::File(Digest::of(bytes)),
        _ => Before::NoFile,
    };
    step(plan, title, Op::WriteFile { path: path.into(), content: Content::Text(text), mode: 0o644 }, expects);
}

fn step(plan: &mut Plan, title: &str, op: Op, expects: Before) {
    plan.changes.push(Change {
        layer: Layer::Guest,
        title: title.into(),
        op,
        expects,
        because: vec![WHY.into()],
        risk: Vec::new(),
        effective: Effective::NextBoot,
        undo: Undo::Exact,
    });
}

/// systemd.service(5). A card's instances are gone with the driver; its mode stays on Ampere alone.
fn unit(program: &str) -> String {
    format!(
        "# Written by thruway, which takes it back: thruway undo\n\
         [Unit]\n\
         Description=thruway cuts the GPUs into their MIG instances again\n\
         After=systemd-modules-load.service nvidia-persistenced.service\n\
         Before=docker.service containerd.service crio.service kubelet.service k3s.service k3s-agent.service\n\
         ConditionPathExists={KEPT}\n\
         ConditionFileIsExecutable={program}\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart={program} mig restore\n\
         TimeoutStartSec=10min\n"
    )
}
