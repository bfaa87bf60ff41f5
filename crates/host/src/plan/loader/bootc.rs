//! bootc without rpm-ostree: arguments come with the image, from /usr/lib/bootc/kargs.d/*.toml, and so does the
//! initramfs. Neither can be written on the running machine, so the advice is a piece of the image's build (bootc's
//! documentation, "Kernel arguments" and "Initramfs").

use model::Refusal;

use crate::plan::files;
use crate::plan::hold::{self, Held};
use crate::plan::steps::Steps;

pub(in crate::plan) fn refuse(steps: &mut Steps<'_>, add: &[String], drop: &[String], held: &[Held], drivers: &[&str]) {
    let mut lines =
        vec!["in the Containerfile of this machine's image; then build it, and bootc upgrade here:".to_owned()];
    if !add.is_empty() {
        let quoted: Vec<String> = add.iter().map(|token| format!("\"{token}\"")).collect();
        lines.push("COPY <<'EOF' /usr/lib/bootc/kargs.d/10-thruway.toml".into());
        lines.push(format!("kargs = [{}]", quoted.join(", ")));
        lines.push("EOF".into());
    }
    if !drop.is_empty() {
        lines.push(format!("# and take {} out of the file of /usr/lib/bootc/kargs.d that has it", drop.join(" ")));
    }
    let items = [files::RULES, files::MODPROBE, files::SETTER];
    for (path, text) in [
        (files::RULES, hold::rules(held)),
        (files::SETTER, hold::setter(held)),
        (files::MODPROBE, hold::order(drivers)),
        (files::DRACUT, hold::dracut(&items)),
    ] {
        lines.push(format!("COPY <<'EOF' {path}"));
        lines.extend(text.lines().map(str::to_owned));
        lines.push("EOF".into());
    }
    lines.push(
        "RUN kver=$(ls /usr/lib/modules) && dracut -f --no-hostonly /usr/lib/modules/$kver/initramfs.img $kver".into(),
    );
    let because = if add.is_empty() && drop.is_empty() { "host/driver-owns-card" } else { "host/iommu-kernel-off" };
    steps.plan.refusals.push(Refusal {
        because: because.into(),
        says: "kernel arguments and initramfs come with this machine's bootc image, and cannot be written here".into(),
        instead: lines.join("\n"),
    });
}
