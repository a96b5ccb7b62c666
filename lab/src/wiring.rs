//! The cables of a lab, and what each host does with its ends of them.
//!
//! Programs are started as seldom as can be, as every test begins here: `ip` once for the cables of a namespace and once for what comes
//! then, the hosts all at a time.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, anyhow, bail};

use crate::namespace::Namespace;
use crate::topology::{
    CLIENT, CLIENT_BEHIND_ACCESS, CLIENT_V6, CLIENT_V6_BEHIND_ACCESS, GATEWAY, GATEWAY_V6, LAN_LINK, Lab,
    Plan, SYNC_LINK, WAN_LINK, server, server_v6,
};
use crate::wait;

/// The access router's addresses towards the client.
const NEAR: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 1), Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1));

/// Lays the cables and has all hosts but the director get addresses and routes.
pub(crate) fn wire(lab: &Lab, plan: &Plan) -> Result<()> {
    for (namespace, lines) in cables(lab, plan)? {
        namespace.ip_batch(&lines)?;
    }
    let hosts = hosts(lab, plan);
    std::thread::scope(|scope| {
        let all: Vec<_> = hosts.iter().map(|host| scope.spawn(|| host.set_up())).collect();
        // Each is waited for, whatever becomes of the others.
        let all: Vec<_> = all.into_iter().map(|host| host.join()).collect();
        all.into_iter().try_for_each(|host| host.map_err(|_panic| anyhow!("setting up a host panicked"))?)
    })?;
    let of_client = if lab.access().is_some() { CLIENT_V6_BEHIND_ACCESS } else { CLIENT_V6 };
    until_local(lab.client(), of_client)?;
    (0..).zip(lab.servers()).try_for_each(|(index, namespace)| until_local(namespace, server_v6(index)))
}

/// What `ip` is to do in which namespace, so that all links are there; the switch's are up.
fn cables<'a>(lab: &'a Lab, plan: &Plan) -> Result<Vec<(&'a Namespace, String)>> {
    let (client, director) = (lab.client(), lab.director());
    let (wan, lan, queues) = (plan.wan_mtu, plan.lan_mtu, plan.queues);
    let bridge = |name: &str, mtu: u16| {
        format!("link add {name} type bridge mcast_snooping 0 stp_state 0\nlink set {name} mtu {mtu} up\n")
    };
    // From a port of a bridge to a host.
    let plug = |port: &str, bridge: &str, host: (&Namespace, &str), mtu: u16| {
        let cable = cable(queues, (port, mtu), (host.0, host.1, mtu));
        format!("{cable}link set {port} master {bridge} up\n")
    };
    let mut switch = "link set lo up\n".to_owned() + &bridge("br0", lan);
    let mut others = Vec::new();
    match (lab.access(), plan.access_mtu) {
        (Some(access), Some(mtu)) => {
            others.push((client, cable(queues, ("eth0", wan), (access, "eth1", mtu))));
            others.push((access, cable(queues, ("eth0", wan), (director, WAN_LINK, wan))));
        }
        _ if plan.standby => {
            switch += &bridge("brwan", wan);
            switch += &plug("client", "brwan", (client, "eth0"), wan);
            switch += &plug("wan", "brwan", (director, WAN_LINK), wan);
        }
        _ => others.push((client, cable(queues, ("eth0", wan), (director, WAN_LINK, wan)))),
    }
    switch += &plug("director", "br0", (director, LAN_LINK), lan);
    for server in lab.servers() {
        switch += &plug(server.role(), "br0", (server, "eth0"), lan);
    }
    if let Some(standby) = lab.standby() {
        switch += &plug("standbywan", "brwan", (standby, WAN_LINK), wan);
        switch += &plug("standbylan", "br0", (standby, LAN_LINK), lan);
        others.push((director, cable(queues, (SYNC_LINK, 1500), (standby, SYNC_LINK, 1500))));
    }
    others.push((lab.switch(), switch));
    Ok(others)
}

/// A cable: a veth pair, each end born in its own namespace, with its MTU.
fn cable(queues: u8, here: (&str, u16), there: (&Namespace, &str, u16)) -> String {
    format!(
        "link add {} mtu {} numrxqueues {queues} numtxqueues {queues} type veth \
         peer name {} mtu {} numrxqueues {queues} numtxqueues {queues} netns {}\n",
        here.0,
        here.1,
        there.1,
        there.2,
        there.0.name()
    )
}

/// What one host does with its links.
struct Host<'a> {
    namespace: &'a Namespace,
    sysctls: Vec<(String, &'static str)>,
    /// Those whose packets get whole checksums from the host itself. A veth otherwise passes packets on with partial ones; the DPDK
    /// drivers cannot tell, and whoever gets them next drops them.
    links: Vec<&'static str>,
    /// For `ip`.
    lines: String,
    /// What `ip` is to print, and how often.
    says: Option<(String, usize)>,
}

impl<'a> Host<'a> {
    fn new(namespace: &'a Namespace) -> Host<'a> {
        let lines = "link set lo up\n".to_owned();
        Host { namespace, sysctls: Vec::new(), links: Vec::new(), lines, says: None }
    }

    /// A link with addresses, which are not tentative at first, and default routes by it.
    fn endpoint(
        mut self,
        link: &'static str,
        addresses: (Ipv4Addr, Ipv6Addr),
        gateway: Option<(Ipv4Addr, Ipv6Addr)>,
    ) -> Host<'a> {
        self.links.push(link);
        self.lines += &format!(
            "addr add {}/24 dev {link} nodad\naddr add {}/64 dev {link} nodad\nlink set {link} up\n",
            addresses.0, addresses.1
        );
        if let Some((v4, v6)) = gateway {
            self.lines += &format!("route add default via {v4}\nroute add default via {v6}\n");
        }
        self
    }

    /// The director's ends of its cables, as NICs that the kernel says nothing on.
    fn nics(mut self, queues: u8) -> Host<'a> {
        for link in [WAN_LINK, LAN_LINK] {
            self.sysctls.push((format!("ipv6/conf/{link}/disable_ipv6"), "1"));
            self.links.push(link);
            self.lines += &format!("link show {link}\nlink set {link} up\n");
        }
        self.says = Some((format!("numrxqueues {queues} "), 2));
        self
    }

    /// The cable between two directors.
    fn sync_link(mut self, address: &str) -> Host<'a> {
        self.lines += &format!("addr add {address} dev {SYNC_LINK}\nlink set {SYNC_LINK} up\n");
        self
    }

    fn routing(mut self) -> Host<'a> {
        self.sysctls.extend(["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(|key| (key.to_owned(), "1")));
        self
    }

    fn set_up(&self) -> Result<()> {
        let sysctls: Vec<_> = self.sysctls.iter().map(|(key, value)| (&**key, *value)).collect();
        self.namespace.sysctls(&sysctls)?;
        for link in &self.links {
            self.namespace.run(60, "ethtool", &["-K", link, "tx", "off"])?;
        }
        let said = self.namespace.ip_batch(&self.lines)?;
        match &self.says {
            Some((words, times)) if said.matches(words).count() != *times => {
                bail!("{}: {words:?} is not said {times} times: {said}", self.namespace.role())
            }
            _ => Ok(()),
        }
    }
}

fn hosts<'a>(lab: &'a Lab, plan: &Plan) -> Vec<Host<'a>> {
    let mut hosts = Vec::new();
    match lab.access() {
        Some(access) => {
            let client = (CLIENT_BEHIND_ACCESS, CLIENT_V6_BEHIND_ACCESS);
            hosts.push(Host::new(lab.client()).endpoint("eth0", client, Some(NEAR)));
            let far = (Ipv4Addr::new(192, 0, 2, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
            let access = Host::new(access).endpoint("eth0", far, None).endpoint("eth1", NEAR, None);
            hosts.push(access.routing());
        }
        None => hosts.push(Host::new(lab.client()).endpoint("eth0", (CLIENT, CLIENT_V6), None)),
    }
    for (index, namespace) in (0..).zip(lab.servers()) {
        let own = (server(index), server_v6(index));
        hosts.push(Host::new(namespace).endpoint("eth0", own, Some((GATEWAY, GATEWAY_V6))));
    }
    let director = Host::new(lab.director()).nics(plan.queues);
    match lab.standby() {
        Some(standby) => {
            hosts.push(director.sync_link("10.9.0.1/24"));
            hosts.push(Host::new(standby).nics(plan.queues).sync_link("10.9.0.2/24"));
        }
        None => hosts.push(director),
    }
    hosts
}

/// An IPv6 address is the host's when the kernel has come to it, a moment after the link is up at both ends. Its local route says so, of
/// which the file has the destination first and the flags ninth.
fn until_local(host: &Namespace, address: Ipv6Addr) -> Result<()> {
    /// `RTF_LOCAL` (uapi/linux/ipv6_route.h).
    const LOCAL: u32 = 0x8000_0000;
    let begin = format!("{:032x} 80 ", address.to_bits());
    let is_local = |line: &str| {
        let flags = line.split_whitespace().nth(8).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        line.starts_with(&begin) && flags.is_some_and(|flags| flags & LOCAL != 0)
    };
    wait::until(&format!("{address} of {}", host.role()), wait::PATIENCE, || {
        // This thread's routes: `/proc/net` is the process's.
        let routes = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/ipv6_route")).ok()?.ok()?;
        routes.lines().any(is_local).then_some(())
    })
}
