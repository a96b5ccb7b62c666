//! Goal: what is done to tables is done wholly or not at all, and comes back from what is kept. Method: batches of a few words.

use proptest::prelude::*;

use super::*;

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn append(chain: &str, rule: &str) -> RuleCommand {
    RuleCommand::Append { chain: chain.to_owned(), rule: words(rule), counts: RuleCounts::default() }
}

fn batch(table: &str, commands: Vec<RuleCommand>) -> RuleBatch {
    let change = TableChange { table: table.to_owned(), empty: false, commands };
    RuleBatch { family: RuleFamily::Ipv4, tables: vec![change], test: false }
}

fn filter(tables: &RuleTables) -> Vec<ChainView> {
    tables.view(RuleFamily::Ipv4, Some(Table::Filter), &[]).remove(0).chains
}

fn refused(tables: &mut RuleTables, commands: Vec<RuleCommand>) -> RuleFailure {
    tables.apply(&batch("filter", commands), &[]).expect_err("refused")
}

fn new_chain(name: &str) -> RuleCommand {
    RuleCommand::NewChain { chain: name.to_owned() }
}

#[test]
fn a_chain_that_is_begun_is_there_and_empty_whether_it_was_there_or_not() {
    let mut tables = RuleTables::new(1);
    let begin = || RuleCommand::BeginChain { chain: "web".to_owned() };
    let rules =
        |tables: &RuleTables| filter(tables).iter().map(|chain| chain.rules.len()).collect::<Vec<_>>();
    let commands = vec![begin(), append("web", "-j DROP"), append("INPUT", "-j web")];
    tables.apply(&batch("filter", commands), &[]).expect("done");
    assert_eq!(rules(&tables), [1, 0, 0, 1]);
    tables.apply(&batch("filter", vec![begin()]), &[]).expect("done");
    assert_eq!(rules(&tables), [1, 0, 0, 0]);
}

#[test]
fn tables_that_are_emptied_keep_their_policies_and_no_counts() {
    let mut tables = RuleTables::new(1);
    let counts = Some(RuleCounts { packets: 5, bytes: 500 });
    let policy = |policy: &str| RuleCommand::SetPolicy {
        chain: "INPUT".to_owned(),
        policy: policy.to_owned(),
        counts,
    };
    let there = vec![policy("DROP"), append("INPUT", "-p tcp -j ACCEPT"), new_chain("web")];
    tables.apply(&batch("filter", there), &[]).expect("done");
    let mut empty = |commands| {
        let mut batch = batch("filter", commands);
        batch.tables[0].empty = true;
        tables.apply(&batch, &[]).expect("done");
        filter(&tables).remove(0)
    };
    let input = empty(Vec::new());
    assert_eq!((input.policy.as_deref(), input.counts), (Some("DROP"), RuleCounts::default()));
    assert!(input.rules.is_empty());
    let input = empty(vec![append("INPUT", "-p tcp -j ACCEPT")]);
    assert_eq!((input.policy.as_deref(), input.rules.len()), (Some("DROP"), 1));
    let input = empty(vec![policy("ACCEPT")]);
    assert_eq!((input.policy.as_deref(), input.counts.packets), (Some("ACCEPT"), 5));
}

#[test]
fn a_batch_that_fails_changes_nothing_and_says_where() {
    let mut tables = RuleTables::new(1);
    let (before, free) =
        (filter(&tables), tables.numbers.free.len() as u32 + MOST_RULE_NUMBERS as u32 - tables.numbers.next);
    let failed = refused(
        &mut tables,
        vec![new_chain("web"), append("INPUT", "-p tcp -j web"), append("NOSUCH", "-j DROP")],
    );
    assert_eq!((failed.command, failed.error), (2, RuleError::NoSuchChain));
    assert_eq!(filter(&tables), before);
    assert_eq!(
        tables.numbers.free.len() as u32 + MOST_RULE_NUMBERS as u32 - tables.numbers.next,
        free,
        "numbers leak"
    );
    assert!(!tables.compiled().are_active());
}

#[test]
fn chains_that_lead_into_each_other_are_refused() {
    let mut tables = RuleTables::new(1);
    let there = vec![new_chain("a"), new_chain("b"), append("a", "-j b"), append("b", "-j a")];
    tables.apply(&batch("filter", there), &[]).expect("no hook leads there");
    assert_eq!(refused(&mut tables, vec![append("INPUT", "-j b")]).error, RuleError::Loop);
    let long: Vec<RuleCommand> = (0..2000)
        .map(|n| new_chain(&format!("c{n}")))
        .chain((0..1999).map(|n| append(&format!("c{n}"), &format!("-j c{}", n + 1))))
        .chain([append("INPUT", "-j c0")])
        .collect();
    assert_eq!(refused(&mut tables, long).error, RuleError::Loop);
}

#[test]
fn counts_begin_where_they_are_told_and_stay_with_their_rule() {
    let workers = [Arc::new(WorkerCounters::new(4, 1)), Arc::new(WorkerCounters::new(4, 1))];
    let mut tables = RuleTables::new(1);
    let counts = RuleCounts { packets: 10, bytes: 1000 };
    let first =
        RuleCommand::Append { chain: "INPUT".to_owned(), rule: words("-s 10.0.0.1/32 -j DROP"), counts };
    tables.apply(&batch("filter", vec![first, append("INPUT", "-j ACCEPT")]), &workers).expect("right");
    let number = tables.tables[0][Table::Filter as usize][0].rules[0].count.number;
    workers.iter().for_each(|worker| worker.rule(number).add(40));
    let count = |tables: &RuleTables| {
        tables.view(RuleFamily::Ipv4, Some(Table::Filter), &workers)[0].chains[0]
            .rules
            .first()
            .map(|view| view.counts)
    };
    assert_eq!(count(&tables), Some(RuleCounts { packets: 12, bytes: 1080 }));
    let insert = RuleCommand::Insert {
        chain: "INPUT".to_owned(),
        at: 2,
        rule: words("-j RETURN"),
        counts: RuleCounts::default(),
    };
    tables.apply(&batch("filter", vec![insert]), &workers).expect("right");
    assert_eq!(count(&tables), Some(RuleCounts { packets: 12, bytes: 1080 }));
    let zero = RuleCommand::Zero { chain: Some("INPUT".to_owned()), at: Some(1) };
    assert!(!tables.apply(&batch("filter", vec![zero]), &workers).expect("right"), "nothing to publish");
    assert_eq!(count(&tables), Some(RuleCounts::default()));
}

#[test]
fn a_number_is_not_given_again_before_workers_use_newer_tables() {
    let mut tables = RuleTables::new(1);
    tables.apply(&batch("filter", vec![append("INPUT", "-j DROP")]), &[]).expect("right");
    let number = tables.tables[0][Table::Filter as usize][0].rules[0].count.number;
    let gone = RuleCommand::DeleteAt { chain: "INPUT".to_owned(), at: 1 };
    tables.apply(&batch("filter", vec![gone]), &[]).expect("there");
    assert_eq!((tables.freed.as_slice(), tables.numbers.free.contains(&number)), (&[number][..], false));
    tables.release();
    assert!(tables.freed.is_empty() && tables.numbers.free.contains(&number));
}

#[test]
fn as_many_rules_as_there_can_be_may_take_the_place_of_as_many() {
    let mut tables = RuleTables::new(1);
    let built_in: usize = tables.tables.iter().flatten().map(|chains| chains.len()).sum();
    let load = |tables: &mut RuleTables, rules: usize| {
        let mut batch = batch("filter", vec![append("INPUT", "-j DROP"); rules]);
        batch.tables[0].empty = true;
        tables.apply(&batch, &[]).map_err(|failure| (failure.command, failure.error))
    };
    let most = MOST_RULES - built_in;
    assert_eq!(load(&mut tables, most), Ok(true));
    for _ in 0..2 {
        assert_eq!(load(&mut tables, most), Ok(true), "workers may still count those before");
        assert_eq!(filter(&tables)[0].rules.len(), most);
        tables.release();
    }
    assert_eq!(load(&mut tables, most + 1), Err((most + 1, RuleError::Full)));
    assert_eq!(filter(&tables)[0].rules.len(), most);
    let one = batch("filter", vec![append("INPUT", "-j DROP")]);
    assert_eq!(tables.apply(&one, &[]).map_err(|failure| failure.error), Err(RuleError::Full));
    assert_eq!(load(&mut tables, 1), Ok(true));
}

#[test]
fn a_test_does_nothing() {
    let mut tables = RuleTables::new(1);
    let test = RuleBatch { test: true, ..batch("filter", vec![append("INPUT", "-j DROP")]) };
    assert!(!tables.apply(&test, &[]).expect("right"));
    assert!(filter(&tables).iter().all(|chain| chain.rules.is_empty()));
}

#[test]
fn a_chain_is_renamed_where_rules_lead_to_it() {
    let mut tables = RuleTables::new(1);
    let rename = RuleCommand::RenameChain { chain: "web".to_owned(), to: "www".to_owned() };
    let commands = vec![new_chain("web"), append("INPUT", "-j web"), rename];
    tables.apply(&batch("filter", commands), &[]).expect("right");
    assert_eq!(filter(&tables)[0].rules[0].rule, words("-j www"));
    let delete = RuleCommand::DeleteChain { chain: Some("www".to_owned()) };
    assert_eq!(refused(&mut tables, vec![delete]).error, RuleError::ChainInUse);
}

fn any_command() -> impl Strategy<Value = RuleCommand> {
    let chain = || prop::sample::select(vec!["INPUT", "FORWARD", "a", "b", "c"]).prop_map(str::to_owned);
    let rule = || {
        let rules =
            vec!["-j DROP", "-p tcp -m tcp --dport 80 -j a", "-s 10.0.0.0/8 -g b", "-p udp", "-j NOSUCH"];
        prop::sample::select(rules).prop_map(words)
    };
    let counts = RuleCounts::default();
    prop_oneof![
        (chain(), rule()).prop_map(move |(chain, rule)| RuleCommand::Append { chain, rule, counts }),
        (chain(), 0..4_usize, rule()).prop_map(move |(chain, at, rule)| RuleCommand::Insert {
            chain,
            at,
            rule,
            counts
        }),
        (chain(), 0..4_usize, rule()).prop_map(move |(chain, at, rule)| RuleCommand::Replace {
            chain,
            at,
            rule,
            counts
        }),
        (chain(), 0..4_usize).prop_map(|(chain, at)| RuleCommand::DeleteAt { chain, at }),
        (chain(), rule()).prop_map(|(chain, rule)| RuleCommand::Delete { chain, rule }),
        chain().prop_map(|chain| RuleCommand::NewChain { chain }),
        chain().prop_map(|chain| RuleCommand::DeleteChain { chain: Some(chain) }),
        (chain(), chain()).prop_map(|(chain, to)| RuleCommand::RenameChain { chain, to }),
        chain().prop_map(|chain| RuleCommand::SetPolicy { chain, policy: "DROP".to_owned(), counts: None }),
        chain().prop_map(|chain| RuleCommand::Flush { chain: Some(chain) }),
    ]
}

proptest! {
    /// The slow twin: the same commands one by one, each in a batch of its own.
    #[test]
    fn what_is_kept_makes_the_same_tables_and_every_number_is_held_once(
        commands in prop::collection::vec(any_command(), 0..40)
    ) {
        let mut tables = RuleTables::new(1);
        for command in commands {
            let before = filter(&tables);
            if tables.apply(&batch("filter", vec![command]), &[]).is_err() {
                prop_assert_eq!(filter(&tables), before);
            }
        }
        let held: Vec<u32> = numbers(chains(&tables.tables)).collect();
        let unlike: HashSet<u32> = held.iter().copied().collect();
        prop_assert_eq!(held.len(), unlike.len());
        prop_assert_eq!(
            held.len() + tables.freed.len() + tables.numbers.free.len(),
            tables.numbers.next as usize
        );
        let mut again = RuleTables::new(1);
        for batch in tables.written().batches() {
            again.apply(&batch, &[]).expect("was right before");
        }
        prop_assert_eq!(filter(&again), filter(&tables));
    }
}
