//! bootc without rpm-ostree: arguments come with the image, from /usr/lib/bootc/kargs.d/*.toml, which nobody can write
//! on the running machine. So the advice is a file for the image's build (bootc's documentation, "Kernel arguments").

use super::Wish;
use crate::plan::steps::Steps;

pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    let quoted: Vec<String> = wish.add.iter().map(|token| format!("\"{token}\"")).collect();
    let mut instead = Vec::new();
    if !wish.add.is_empty() {
        instead.push("in the Containerfile of this machine's image, and then bootc upgrade:".to_owned());
        instead
            .push(format!("RUN printf 'kargs = [{}]\\n' > /usr/lib/bootc/kargs.d/10-thruway.toml", quoted.join(", ")));
    }
    if !wish.drop.is_empty() {
        instead.push(format!("take {} out of the file below /usr/lib/bootc/kargs.d that has it", wish.drop.join(" ")));
    }
    let says = "the kernel command line comes with this machine's bootc image, whose files cannot be written here";
    wish.refuse(steps, says.to_owned(), instead.join("\n"));
}
