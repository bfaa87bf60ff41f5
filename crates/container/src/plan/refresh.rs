//! The unit that keeps the CDI specs true, installed and started: after that no spec of ours is a file that can grow old.

use cdi::unit;
use model::{Before, Change, Content, Effective, Layer, Op, Plan, ServiceVerb, Undo};

use super::{SPEC_PATH, service};
use crate::Facts;

/// Its link as `systemctl enable` makes it: a link can be undone byte for byte, also after the unit's file is gone.
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

/// True where the specs are this unit's work from here on, and no spec is to be written by the plan. `gone`: what the plan
/// has taken away already.
pub(super) fn plan(facts: &Facts, gone: &[String], plan: &mut Plan) -> bool {
    let own = &facts.own;
    // Another generator's spec beside ours would make every device ambiguous.
    let theirs = |path: &str| path.starts_with("/run/cdi/") || path.starts_with("/var/run/cdi/");
    let ours = |path: &str| path.ends_with(cdi::SPEC_NAME);
    let beside = facts
        .specs
        .iter()
        .any(|file| file.ours() && theirs(&file.path) && !ours(&file.path) && !gone.contains(&file.path));
    if !own.program || beside {
        return false;
    }
    let because = ["container/cdi-spec-missing".to_owned()];
    let mut add = |title: String, op: Op, expects: Before| {
        plan.changes.push(Change {
            layer: Layer::Container,
            title,
            op,
            expects,
            because: because.to_vec(),
            risk: Vec::new(),
            effective: Effective::Now,
            undo: Undo::Exact,
        });
    };
    let path = own
        .unit
        .as_ref()
        .map_or_else(|| format!("/etc/systemd/system/{}", unit::SERVICE_NAME), |(path, _)| path.clone());
    if own.unit.is_none() {
        let content = Content::Text(unit::SERVICE.to_owned());
        let op = Op::WriteFile { path: path.clone(), content, mode: 0o644 };
        add("keep the CDI specs true by a service".to_owned(), op, Before::NoFile);
    }
    if !own.rule {
        let content = Content::Text(unit::RULE.to_owned());
        let op = Op::WriteFile { path: format!("/etc/udev/rules.d/{}", unit::RULE_NAME), content, mode: 0o644 };
        add("start it when the driver comes".to_owned(), op, Before::NoFile);
    }
    if !own.wanted {
        let op = Op::Link { path: format!("{WANTS}/{}", unit::SERVICE_NAME), target: path };
        add("start it at every boot".to_owned(), op, Before::NoFile);
    }
    // What an earlier plan wrote as a file would be the spec of a driver that is gone, one day.
    let file = facts.specs.iter().find(|file| file.path == SPEC_PATH && !gone.contains(&file.path));
    if let Some(digest) = file.and_then(|file| file.digest.clone()) {
        let op = Op::RemoveFile { path: SPEC_PATH.to_owned() };
        add(format!("take away {SPEC_PATH}, which the service does better"), op, Before::File(digest));
    }
    if own.unit.is_none() {
        let title = "let systemd read its units again".to_owned();
        plan.changes.push(service(title, "", ServiceVerb::DaemonReload, Vec::new(), &because));
    }
    let verb = if own.wanted { ServiceVerb::Restart } else { ServiceVerb::Start };
    let title = format!("{} {}, which writes the specs", verb.word(), unit::SERVICE_NAME);
    plan.changes.push(service(title, unit::SERVICE_NAME, verb, Vec::new(), &because));
    true
}
