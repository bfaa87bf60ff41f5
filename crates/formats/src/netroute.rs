//! `/proc/net/route`, `arp` and `tcp`: the kernel's IPv4 routes, neighbours and connections. Sources:
//! net/ipv4/fib_trie.c (`fib_route_seq_show`), net/ipv4/arp.c (`arp_format_neigh_entry`), the kernel's
//! Documentation/networking/proc_net_tcp.rst, proc_net(5).

use std::net::Ipv4Addr;

/// Flags of a route: it is up; it leads over a gateway (`RTF_UP`, `RTF_GATEWAY`).
const UP: u32 = 0x1;
const GATEWAY: u32 = 0x2;
/// A neighbour whose hardware address is known (`ATF_COM`).
const COMPLETE: u32 = 0x2;

/// A route; addresses as people write them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub interface: String,
    pub destination: Ipv4Addr,
    pub mask: Ipv4Addr,
    /// `None` where the destination is reached directly.
    pub gateway: Option<Ipv4Addr>,
    pub metric: u32,
}

impl Route {
    pub fn is_default(&self) -> bool {
        self.destination.is_unspecified() && self.mask.is_unspecified()
    }
}

/// The routes that are up. Lines that are none are passed by.
pub fn routes(text: &str) -> Vec<Route> {
    text.lines().skip(1).filter_map(route).collect()
}

fn route(line: &str) -> Option<Route> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [interface, destination, gateway, flags, _, _, metric, mask, ..] = words.as_slice() else { return None };
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let gateway = address(gateway)?;
    let route = Route {
        interface: (*interface).to_owned(),
        destination: address(destination)?,
        mask: address(mask)?,
        gateway: (flags & GATEWAY != 0).then_some(gateway),
        metric: metric.parse().ok()?,
    };
    (flags & UP != 0).then_some(route)
}

/// Eight hexadecimal digits in the byte order of the machine; thruway's machines are little-endian.
fn address(word: &str) -> Option<Ipv4Addr> {
    let bits = u32::from_str_radix(word, 16).ok().filter(|_| word.len() == 8)?;
    Some(Ipv4Addr::from(bits.swap_bytes()))
}

/// The default route that the kernel prefers, and its gateway.
pub fn default_route(text: &str) -> Option<(String, Ipv4Addr)> {
    let best = routes(text).into_iter().filter(|r| r.is_default() && r.gateway.is_some()).min_by_key(|r| r.metric)?;
    Some((best.interface, best.gateway?))
}

/// The interface by which packets to this address leave: the longest prefix, then the lowest metric.
pub fn interface_to(routes: &[Route], who: Ipv4Addr) -> Option<&str> {
    let fits = |route: &&Route| u32::from(who) & u32::from(route.mask) == u32::from(route.destination);
    let order = |route: &&Route| (u32::from(route.mask), u32::MAX - route.metric);
    routes.iter().filter(fits).max_by_key(order).map(|route| route.interface.as_str())
}

/// The peers of established connections to one of these local ports, from `/proc/net/tcp`.
pub fn peers(tcp: &str, ports: &[u16]) -> Vec<Ipv4Addr> {
    const ESTABLISHED: &str = "01";
    let end = |word: &str| {
        let (bits, port) = word.split_once(':')?;
        Some((address(bits)?, u16::from_str_radix(port, 16).ok()?))
    };
    let rows = tcp.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let ((_, local), (remote, _)) = (end(words.next()?)?, end(words.next()?)?);
        (words.next()? == ESTABLISHED && ports.contains(&local)).then_some(remote)
    });
    rows.collect()
}

/// True where this neighbour has answered: `/proc/net/arp` has its hardware address.
pub fn has_answered(arp: &str, who: Ipv4Addr) -> bool {
    arp.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok());
        let flags = words.nth(1).and_then(|word| u32::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        address == Some(who) && flags.is_some_and(|flags| flags & COMPLETE != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    fn the_preferred_default_route_and_its_gateway() {
        let text = format!(
            "{HEAD}wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
             vmbr0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
             eth9\t00000000\t0901A8C0\t0002\t0\t0\t1\t00000000\t0\t0\t0\n\
             vmbr0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        );
        assert_eq!(default_route(&text), Some(("vmbr0".into(), Ipv4Addr::new(192, 168, 1, 1))));
        let all = routes(&text);
        assert_eq!(all.len(), 3, "a route that is down is none");
        assert_eq!(all[2].gateway, None);
        assert_eq!(default_route(HEAD), None);
    }

    #[test]
    fn a_neighbour_has_answered_once_its_address_is_known() {
        let arp = "IP address       HW type     Flags       HW address            Mask     Device\n\
                   192.168.1.1      0x1         0x2         02:00:00:00:00:01     *        vmbr0\n\
                   192.168.1.9      0x1         0x0         00:00:00:00:00:00     *        vmbr0\n";
        assert!(has_answered(arp, Ipv4Addr::new(192, 168, 1, 1)));
        assert!(!has_answered(arp, Ipv4Addr::new(192, 168, 1, 9)));
        assert!(!has_answered(arp, Ipv4Addr::new(192, 168, 1, 2)));
    }

    #[test]
    fn connections_and_the_way_to_their_peers() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
                   \x20  0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
                   \x20  1: 050200C0:0016 090200C0:D2F0 01 00000000:00000000 02:000A7F9C 00000000     0\n\
                   \x20  2: 050200C0:01BB 0A0200C0:D2F0 01 00000000:00000000 02:000A7F9C 00000000     0\n\
                   \x20  3: 050200C0:0016 0B0200C0:D2F0 06 00000000:00000000 02:000A7F9C 00000000     0\n";
        assert_eq!(peers(tcp, &[22]), [Ipv4Addr::new(192, 0, 2, 9)]);
        assert!(peers(tcp, &[2222]).is_empty());
        let table = format!(
            "{HEAD}vmbr0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             enp5s0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        );
        let all = routes(&table);
        assert_eq!(interface_to(&all, Ipv4Addr::new(192, 0, 2, 9)), Some("enp5s0"));
        assert_eq!(interface_to(&all, Ipv4Addr::new(8, 8, 8, 8)), Some("vmbr0"));
        assert_eq!(interface_to(&[], Ipv4Addr::LOCALHOST), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([a-z0-9]{1,4}[\t ]){0,14}\n{0,2}\\PC{0,40}") {
            let text = format!("{HEAD}{text}");
            prop_assert!(routes(&text).len() < text.lines().count());
            has_answered(&text, Ipv4Addr::LOCALHOST);
            interface_to(&routes(&text), Ipv4Addr::LOCALHOST);
            peers(&text, &[22]);
        }
    }
}
