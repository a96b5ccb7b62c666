//! A keeper of rules without a daemon, and rules of which an input picks.

use std::sync::Arc;

use arbitrary::Arbitrary;
use lb_control::api::accounts::{AccountCommand, AccountQuota, QuotaUnit};
use lb_control::api::rules::{
    RuleBatch, RuleCommand, RuleCounts, RuleFamily, RuleReply, RulesReply, TableChange,
};
use lb_control::cli::director::DirectorError;
use lb_control::cli::iptables::{self, RuleKeeper, Surroundings};
use lb_control::model::rules::RuleTables;
use lb_core::rule::names::Numeric;
use lb_core::rule::{Rules, Table, chain_name, text};

/// The operator's rules alone, done by the daemon's model.
pub(crate) struct InProcess(pub(crate) RuleTables);

impl InProcess {
    /// With what rules can count under.
    pub(crate) fn new() -> InProcess {
        let mut rules = RuleTables::new(7);
        let add = |name: &str, quota| {
            let (name, counts) = (name.to_owned(), RuleCounts::default());
            AccountCommand::Add { name, quota, counts }
        };
        let few = AccountQuota { unit: QuotaUnit::Packets, limit: 3 };
        rules.change_accounts(&[add("all", None), add("few", Some(few))]).expect("room");
        InProcess(rules)
    }
}

impl RuleKeeper for InProcess {
    fn change(&mut self, batch: &RuleBatch) -> Result<RuleReply, DirectorError> {
        let failed = self.0.apply(batch, &[]).err();
        self.0.release();
        Ok(RuleReply { failed })
    }

    fn rules(&mut self, family: RuleFamily, table: Option<Table>) -> Result<RulesReply, DirectorError> {
        Ok(RulesReply { tables: self.0.view(family, table, &[]) })
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: u8,
    output: String,
    errors: String,
}

type Command = fn(&'static str, &[String], &mut dyn RuleKeeper, &mut Surroundings<'_>) -> u8;

fn done(run: Command, name: &'static str, words: &[String], input: &str, keeper: &mut InProcess) -> Done {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut input = input.as_bytes();
    let mut around =
        Surroundings { names: &Numeric, input: &mut input, output: &mut output, errors: &mut errors };
    let code = run(name, words, keeper, &mut around);
    assert!(code <= 3, "{name} {words:?}: exit code {code}");
    assert!(code == 0 || !errors.is_empty(), "{name} {words:?}: it failed without a word");
    let text = |bytes| String::from_utf8(bytes).expect("iptables writes text");
    Done { code, output: text(output), errors: text(errors) }
}

/// The programs of a family.
#[derive(Clone, Copy)]
pub(crate) struct Programs([&'static str; 3]);

pub(crate) const IPV4: Programs = Programs(["iptables", "iptables-save", "iptables-restore"]);
pub(crate) const IPV6: Programs = Programs(["ip6tables", "ip6tables-save", "ip6tables-restore"]);

impl Programs {
    /// One command line.
    pub(crate) fn run(self, words: &[String], keeper: &mut InProcess) -> Done {
        done(iptables::run, self.0[0], words, "", keeper)
    }

    /// All tables with their counts, without the lines that are dated.
    pub(crate) fn save(self, keeper: &mut InProcess) -> String {
        let saved = done(iptables::run_save, self.0[1], &["-c".to_owned()], "", keeper);
        assert_eq!((saved.code, saved.errors.as_str()), (0, ""));
        let lines = saved.output.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| format!("{line}\n")).collect()
    }

    pub(crate) fn restore(self, file: &str, keeper: &mut InProcess) -> Done {
        done(iptables::run_restore, self.0[2], &["-c".to_owned()], file, keeper)
    }

    /// What is saved is restored to the same, and saved again as it was.
    pub(crate) fn check_round_trip(self, keeper: &mut InProcess) {
        let saved = self.save(keeper);
        let mut again = InProcess::new();
        let done = self.restore(&saved, &mut again);
        // It may be warned of.
        assert_eq!(done.code, 0, "restoring {saved}: {}", done.errors);
        assert_eq!(self.save(&mut again), saved);
    }
}

/// A rule, made of a few phrases. Not every one is a rule: the model refuses what is none.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Line {
    chain: u8,
    matches: [u8; 2],
    target: u8,
}

const OWN_CHAINS: [&str; 2] = ["one", "two"];

/// The first one is that of an input that is at its end: packets come by.
const MATCHES: &[&str] = &[
    "",
    "-p tcp",
    "-p udp",
    "-p tcp --dport 80",
    "-p tcp --syn",
    "-p tcp --tcp-flags FIN,RST RST",
    "-p udp --sport 4000:4001",
    "-m state --state NEW",
    "-m conntrack --ctstate ESTABLISHED,RELATED",
    "-m conntrack --ctstate INVALID,UNTRACKED",
    "-m conntrack --ctstate DNAT,SNAT",
    "-m conntrack --ctdir REPLY",
    "-m conntrack --ctorigdstport 80",
    "-m conntrack --ctstatus ASSURED",
    "-i wan",
    "-o wan",
    "-i lan",
    "-o lan",
    "-i wan.+",
    "-f",
    "-s 192.0.2.100/30",
    "-s 2001:db8::/64",
    "-d 192.0.2.10/31",
    "-d 10.0.0.0/24",
    "! -d 10.0.0.10",
    "-p tcp -m multiport --ports 80,4000:4001",
    "-m mark --mark 1/3",
    "-m connmark --mark 1",
    "-m connlabel --label 5 --set",
    "-m connlabel ! --label 5",
    "-m limit --limit 1/s --limit-burst 2",
    "-m length --length 100:900",
    "-m ttl --ttl-lt 3",
    "-m hl --hl-gt 3",
    "-m tos --tos 0/0xff",
    "-m dscp --dscp 4",
    "-m addrtype --dst-type LOCAL",
    "-m statistic --mode nth --every 2",
    "-m statistic --mode random --probability 0.5",
    "-m recent --name a --set",
    "-m recent --name a --rcheck --hitcount 2",
    "-m string --algo bm --string abc",
    "-m u32 --u32 6&0xff=17",
    "-m iprange --src-range 192.0.2.100-192.0.2.103",
    "-p icmp --icmp-type any",
    "-p icmpv6 --icmpv6-type packet-too-big",
    "-p sctp --chunk-types any INIT",
    "-p tcp -m tcpmss --mss 0:1400",
    "-m pkttype --pkt-type unicast",
    "-m mac --mac-source 02:00:00:00:01:01",
    "-m time --timestart 00:00",
    "-m nfacct --nfacct-name all",
    "-m nfacct --nfacct-name few",
    "-m realm --realm 1",
    "-m realm ! --realm 0x20000/0xffff0000",
    "-p tcp -m osf --genre Some",
    "-p tcp -m osf --genre Same --ttl 1 --log 0",
];

const TARGETS: &[&str] = &[
    "-j ACCEPT",
    "-j DROP",
    "-j RETURN",
    "-j one",
    "-j two",
    "-g one",
    "-g two",
    "-j REJECT",
    "-j REJECT --reject-with tcp-reset",
    "-j REJECT --reject-with icmp-host-unreachable",
    "-j SNAT --to-source 192.0.2.1",
    "-j SNAT --to-source 10.0.0.1:4000-4001",
    "-j SNAT --to-source fd00::1",
    "-j SNAT --to-source 192.0.2.20-192.0.2.23 --random",
    "-j SNAT --to-source 192.0.2.20-192.0.2.23 --persistent",
    "-j DNAT --to-destination 10.0.0.11",
    "-j DNAT --to-destination 10.0.0.10-10.0.0.12:8080",
    "-j DNAT --to-destination [fd00::11]:8080",
    "-j DNAT --to-destination 192.0.2.10:80",
    "-j DNAT --to-destination 192.0.2.101",
    "-j MASQUERADE",
    "-j MASQUERADE --to-ports 4000-4001",
    "-j MASQUERADE --random",
    "-j REDIRECT",
    "-j REDIRECT --to-ports 8080",
    "-j NETMAP --to 10.0.0.0/24",
    "-j NETMAP --to 192.0.2.0/24",
    "-j NOTRACK",
    "-j CT --notrack",
    "-j MARK --set-mark 1",
    "-j MARK --or-mark 6",
    "-j CONNMARK --set-mark 1",
    "-j CONNMARK --save-mark",
    "-j CONNMARK --restore-mark",
    "-j TOS --set-tos 0x10/0x1c",
    "-j DSCP --set-dscp 4",
    "-j TTL --ttl-set 2",
    "-j TTL --ttl-dec 1",
    "-j HL --hl-inc 3",
    "-j TCPMSS --set-mss 1000",
    "-j TCPMSS --clamp-mss-to-pmtu",
    "-j LOG --log-prefix x",
    "-j NFLOG --nflog-group 1",
    "-j TEE --gateway 10.0.0.11",
    "-j TRACE",
    "",
];

impl Line {
    /// A table, a chain in it, and the words behind.
    fn parts(self) -> (Table, &'static str, String) {
        let chains = Table::ALL.into_iter().flat_map(|table| {
            let built_in = table.hooks().iter().map(|&hook| chain_name(hook));
            built_in.chain(OWN_CHAINS).map(move |chain| (table, chain))
        });
        let chains: Vec<_> = chains.collect();
        let (table, chain) = chains[usize::from(self.chain) % chains.len()];
        let pick = |phrases: &[&'static str], n: u8| phrases[usize::from(n) % phrases.len()];
        let [first, second] = self.matches.map(|n| pick(MATCHES, n));
        (table, chain, format!("{first} {second} {}", pick(TARGETS, self.target)))
    }

    /// Whether it can say of a packet that it is of no connection.
    pub(crate) fn untracks(self) -> bool {
        let (table, _, words) = self.parts();
        table == Table::Raw && (words.contains("NOTRACK") || words.contains("--notrack"))
    }
}

/// Those of both families that are rules, behind `before`.
pub(crate) fn compiled(before: &mut InProcess, lines: &[Line]) -> Arc<Rules> {
    for family in [RuleFamily::Ipv4, RuleFamily::Ipv6] {
        let mut one = |table: Table, command| {
            let change =
                TableChange { table: table.name().to_owned(), empty: false, commands: vec![command] };
            before.change(&RuleBatch { family, tables: vec![change], test: false }).expect("an answer");
        };
        for (table, chain) in Table::ALL.into_iter().flat_map(|table| OWN_CHAINS.map(|chain| (table, chain)))
        {
            one(table, RuleCommand::NewChain { chain: chain.to_owned() });
        }
        for line in lines {
            let (table, chain, words) = line.parts();
            let rule = text::split(&words).expect("quotes that end");
            let (chain, counts) = (chain.to_owned(), RuleCounts::default());
            one(table, RuleCommand::Append { chain, rule, counts });
        }
    }
    before.0.compiled().clone()
}
