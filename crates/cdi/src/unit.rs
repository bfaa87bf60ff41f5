//! The service that keeps the specs true, as files: `dist/` of this repository has them, and plans write them out.

/// systemd's unit, which runs `thruway cdi refresh --watch`.
pub const SERVICE: &str = include_str!("../../../dist/systemd/thruway-cdi-refresh.service");
/// Its name below /etc/systemd/system or /usr/lib/systemd/system.
pub const SERVICE_NAME: &str = "thruway-cdi-refresh.service";
/// udev's rule, which wants the unit where NVIDIA's module is loaded or a card comes to a driver.
pub const RULE: &str = include_str!("../../../dist/udev/71-thruway-cdi.rules");
/// Its name below /etc/udev/rules.d or /usr/lib/udev/rules.d.
pub const RULE_NAME: &str = "71-thruway-cdi.rules";
