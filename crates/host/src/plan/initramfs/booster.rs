//! booster: its init knows neither udev rules nor modprobe's `install` and `softdep`, so the one way to be first is
//! that no driver of the card is in the image. By itself it takes none along; only /etc/booster.yaml can ask for one
//! (booster(1), `modules` and `modules_force_load`).

use model::Refusal;

use super::{Steps, WHY};

const PATH: &str = "/etc/booster.yaml";

pub(super) fn keep_out(steps: &mut Steps<'_>, drivers: &[&str]) {
    let text = steps.text(PATH);
    for (at, line) in text.lines().enumerate() {
        let Some((key, value)) = line.split_once(':') else { continue };
        if !matches!(key.trim(), "modules" | "modules_force_load") {
            continue;
        }
        let mut named = value.split(['#']).next().unwrap_or_default().split([',', ' ', '"', '\'']);
        if let Some(name) = named.find(|name| drivers.iter().any(|driver| crate::facts::is_module(driver, name))) {
            steps.plan.refusals.push(Refusal {
                because: WHY.into(),
                says: format!(
                    "{PATH}:{}: {name} is loaded in the initramfs, where booster cannot hold a card back",
                    at + 1
                ),
                instead: format!("take {name} from that line, and plan again; it is loaded a moment later then"),
            });
        }
    }
}
