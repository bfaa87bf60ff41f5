//! The boot guard: a one-shot unit that has thruway look, after the boot that the plan waits for, whether it came true.

use model::{Effective, Guard, Refusal};

use super::files;
use super::steps::Steps;

const WHY: &str = "host/network-lost";
/// Where programs stay over a boot; /tmp and /run do not.
const GONE: [&str; 4] = ["/tmp/", "/run/", "/var/run/", "/dev/shm/"];

/// Adds the unit where something waits for a boot. Not part of the initramfs.
pub(super) fn add(guard: &Guard, steps: &mut Steps<'_>) {
    if !steps.plan.changes.iter().any(|change| change.effective == Effective::NextBoot) {
        return;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    let program = guard.program.as_str();
    if !program.starts_with('/') || !program.chars().all(plain) || GONE.iter().any(|dir| program.starts_with(dir)) {
        return refuse(
            steps,
            format!("the boot guard cannot start {program}: it would not be there, or not be found, at boot"),
            "install -m 0755 thruway /usr/local/bin/thruway, and plan with that one",
        );
    }
    let Some((interface, gateway)) = steps.facts.usage.gateway.clone() else {
        if guard.undo {
            let says = "this machine has no IPv4 default route whose return the boot guard could wait for";
            return refuse(steps, says.into(), "leave --guard=undo out, or say --guard=report");
        }
        return write(guard, None, steps);
    };
    write(guard, Some(format!("{gateway} by {interface}")), steps);
    if guard.undo {
        steps.plan.notes.push(format!(
            "if the gateway {gateway} does not answer within two minutes after the boot, the boot guard takes this \
             change back and boots once more"
        ));
    }
}

fn refuse(steps: &mut Steps<'_>, says: String, instead: &str) {
    steps.plan.refusals.push(Refusal { because: WHY.into(), says, instead: instead.into() });
}

fn write(guard: &Guard, network: Option<String>, steps: &mut Steps<'_>) {
    let wrote = steps.wrote;
    let title = "look after the boot whether the plan came true".to_owned();
    steps.write(files::GUARD, unit(guard, network.as_deref()), 0o644, title, WHY);
    let wanted = "# Written by thruway, which takes it back: thruway undo\n[Unit]\nWants=thruway-guard.service\n";
    let title = "have systemd start the boot guard".to_owned();
    steps.write(files::GUARD_WANTED, wanted.into(), 0o644, title, WHY);
    steps.wrote = wrote;
}

/// systemd.service(5). It judges one boot and does nothing at the later ones.
fn unit(guard: &Guard, network: Option<&str>) -> String {
    let program = &guard.program;
    let network = network.map_or(String::new(), |network| format!("# The network to come back: gateway {network}.\n"));
    format!(
        "# Written by thruway, which takes it back: thruway undo\n{network}\
         [Unit]\n\
         Description=thruway looks whether the change that waited for this boot came true\n\
         After=network-online.target\n\
         Wants=network-online.target\n\
         ConditionPathExists=/var/lib/thruway/journal\n\
         ConditionFileIsExecutable={program}\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={program} guard\n\
         TimeoutStartSec=30min\n"
    )
}
