//! What memory is near what, on machines of several NUMA nodes.
//!
//! There is a pool of packet buffers for each node that has a port, and what comes by a port comes into a buffer of its node's. A worker's connections
//! are in memory that was asked for on its CPU ([`crate::cpu::at`]), which Linux takes from that CPU's node as long as there is some.

use std::fs;
use std::path::Path;

/// Pools of packet buffers, and who takes which.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pools {
    /// The node of each pool; `None`: wherever there is memory.
    pub(crate) nodes: Vec<Option<u32>>,
    /// By port: where what it receives goes.
    pub(crate) of_port: Vec<usize>,
    /// By worker: where it takes a buffer for a packet of its own.
    pub(crate) of_worker: Vec<usize>,
}

impl Pools {
    /// By the nodes of the workers' CPUs and of the ports. A port has none that is no device, or where the machine has one node and does not say so: then
    /// the workers' nodes count, of which the first one's is taken when no port has any.
    pub(crate) fn of(workers: &[Option<u32>], ports: &[Option<u32>]) -> Pools {
        let mut nodes: Vec<_> = ports.iter().copied().filter(Option::is_some).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.is_empty() {
            nodes.push(workers.first().copied().flatten());
        }
        let near = |node: &Option<u32>| nodes.iter().position(|of| of == node);
        let first = workers.iter().find_map(near).unwrap_or(0);
        Pools {
            of_port: ports.iter().map(|node| near(node).unwrap_or(first)).collect(),
            of_worker: workers.iter().map(|node| near(node).unwrap_or(first)).collect(),
            nodes,
        }
    }

    /// Whether all buffers are of one pool.
    pub(crate) fn is_one(&self) -> bool {
        self.nodes.len() == 1
    }
}

/// The node of a CPU, where the system says it.
pub(crate) fn of_cpu(number: u32) -> Option<u32> {
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{number}")).ok()?;
    entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

/// The node that a PCI device is at, where the system says it.
pub(crate) fn of_pci(address: &str) -> Option<u32> {
    let path = Path::new("/sys/bus/pci/devices").join(address).join("numa_node");
    // -1: it does not say.
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuSet;

    const A: Option<u32> = Some(0);
    const B: Option<u32> = Some(1);

    fn pools(workers: &[Option<u32>], ports: &[Option<u32>]) -> (Vec<Option<u32>>, Vec<usize>, Vec<usize>) {
        let Pools { nodes, of_port, of_worker } = Pools::of(workers, ports);
        (nodes, of_port, of_worker)
    }

    #[test]
    fn ports_of_one_node_have_one_pool_there_whoever_works() {
        assert_eq!(pools(&[A, A], &[A, A]), (vec![A], vec![0, 0], vec![0, 0]));
        assert_eq!(pools(&[A, B], &[B]), (vec![B], vec![0], vec![0, 0]));
        assert_eq!(pools(&[None], &[B, None]), (vec![B], vec![0, 0], vec![0]));
    }

    #[test]
    fn ports_of_two_nodes_have_a_pool_each_and_workers_take_of_their_own_nodes() {
        assert_eq!(pools(&[A, B, A], &[B, A]), (vec![A, B], vec![1, 0], vec![0, 1, 0]));
        // A third node has no port, and so no pool; of the others the one that has a worker is taken.
        let third = Some(2);
        assert_eq!(pools(&[third, B], &[A, B, third, A]), (vec![A, B, third], vec![0, 1, 2, 0], vec![2, 1]));
        assert_eq!(pools(&[third, B], &[A, B]), (vec![A, B], vec![0, 1], vec![1, 1]));
    }

    #[test]
    fn ports_that_are_no_devices_go_by_the_workers() {
        assert_eq!(pools(&[B, A], &[None, None]), (vec![B], vec![0, 0], vec![0, 0]));
        assert_eq!(pools(&[None], &[None]), (vec![None], vec![0], vec![0]), "the system does not say");
        assert_eq!(pools(&[B], &[A, None, B]), (vec![A, B], vec![0, 1, 1], vec![1]));
    }

    #[test]
    fn this_machine_says_where_its_cpus_are_or_nothing() {
        let cpu = CpuSet::usable().unwrap().iter().next().unwrap();
        let directory = |node: u32| format!("/sys/devices/system/node/node{node}/cpu{cpu}");
        assert!(of_cpu(cpu).is_none_or(|node| Path::new(&directory(node)).exists()));
        assert_eq!((of_cpu(u32::MAX), of_pci("ffff:ff:1f.7")), (None, None));
    }
}
