use serde::Deserialize;

use super::*;
use crate::api::rules::{RuleBatch, RuleFamily, RuleReply, RulesReply};
use crate::cli::iptables::{self, RuleKeeper};
use crate::model::rules::RuleTables;
use lb_core::rule::Table;
use lb_core::rule::names::Numeric;

struct InProcess(RuleTables);

impl AccountKeeper for InProcess {
    fn accounts(&mut self) -> Result<Vec<AccountView>, DirectorError> {
        Ok(self.0.account_views())
    }

    fn reset_accounts(&mut self, only: Option<&str>) -> Result<Option<Vec<AccountView>>, DirectorError> {
        Ok(self.0.reset_accounts(only))
    }

    fn change_accounts(&mut self, batch: &AccountBatch) -> Result<AccountReply, DirectorError> {
        Ok(AccountReply { failed: self.0.change_accounts(&batch.commands).err() })
    }
}

impl RuleKeeper for InProcess {
    fn change(&mut self, batch: &RuleBatch) -> Result<RuleReply, DirectorError> {
        Ok(RuleReply { failed: self.0.apply(batch, &[]).err() })
    }

    fn rules(&mut self, family: RuleFamily, table: Option<Table>) -> Result<RulesReply, DirectorError> {
        Ok(RulesReply { tables: self.0.view(family, table, &[]) })
    }
}

/// A line as the real commands did it, one after the other.
#[derive(Deserialize)]
struct Recorded {
    argv: Vec<String>,
    #[serde(default)]
    stdin: String,
    rc: u8,
    stdout: String,
    stderr: String,
}

/// Exit code and both outputs.
fn run_line(keeper: &mut InProcess, argv: &[String], stdin: &str) -> (u8, String, String) {
    let (mut input, mut output, mut errors) = (stdin.as_bytes(), Vec::new(), Vec::new());
    let (input, output_to, errors_to) = (&mut input, &mut output, &mut errors);
    let code = match argv[0].as_str() {
        "nfacct" => {
            let around = &mut Surroundings { input, output: output_to, errors: errors_to };
            run(&argv[1..], keeper, around)
        }
        name => {
            let program = if name == "iptables" { "iptables" } else { "ip6tables" };
            let around =
                &mut iptables::Surroundings { names: &Numeric, input, output: output_to, errors: errors_to };
            iptables::run(program, &argv[1..], keeper, around)
        }
    };
    (code, String::from_utf8(output).expect("text"), String::from_utf8(errors).expect("text"))
}

/// JSON that is none: where the quota is told of there.
fn mended(text: &str) -> String {
    text.replace("\"mode\" = ", "\"mode\" : ").replace("\"overquota\" = ", "\"overquota\" : ")
}

/// Without the moment.
fn timeless(text: &str) -> String {
    match text.split_once("\"timestamp\" : ") {
        Some((before, after)) => {
            format!("{before}\"timestamp\" : 0{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => text.to_owned(),
    }
}

#[test]
fn command_lines_do_as_recorded() {
    let lines = include_str!("../../../tests/oracle/nfacct.jsonl");
    let mut keeper = InProcess(RuleTables::new(1));
    let (mut different, mut count) = (Vec::new(), 0);
    for line in lines.lines() {
        let recorded: Recorded = serde_json::from_str(line).expect("a line");
        let (code, output, errors) = run_line(&mut keeper, &recorded.argv, &recorded.stdin);
        let expected = (recorded.rc, mended(&recorded.stdout), recorded.stderr);
        let got = (code, timeless(&output), errors);
        count += 1;
        if got != expected {
            different.push(format!("{:?}\n  expected {expected:?}\n  got      {got:?}", recorded.argv));
        }
    }
    assert!(different.is_empty(), "{} of {count}:\n{}", different.len(), different.join("\n"));
    assert!(count > 100, "{count}");
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn what_is_listed_is_restored_with_quotas_and_blanks_in_names_and_all_or_nothing() {
    let mut keeper = InProcess(RuleTables::new(1));
    let text = "{ pkts = 00000000000000000012, bytes = 00000000000000000345, quota = 00000000000000000030, mode = packet, overquota = no } = a b;\n\
                { pkts = 00000000000000000001, bytes = 00000000000000000002 } = c;d;\n\
                { pkts = 00000000000000000003, bytes = 00000000000000000004 } =   e} ;\n";
    let mut restore = |text: &str| run_line(&mut keeper, &words("nfacct restore"), text);
    for bad in [
        "{ pkts = 1, bytes = 2, quota = 3, mode = none, overquota = no } = q;",
        "{ pkts = 1, bytes = 2, quota = x, mode = byte, overquota = no } = q;",
        "{ pkts = 1, bytes = 2, mode = byte } = q;",
        "{ pkts = 1 x, bytes = 2 } = q;",
        "} = q;",
        "{ pkts = 1, bytes = 2 } q;",
        "{ pkts = 1, bytes = 2 } = ;",
    ] {
        assert_eq!(restore(&format!("{text}{bad}\n")).0, 1, "{bad}");
    }
    assert_eq!(restore(text), (0, String::new(), String::new()));
    assert_eq!(run_line(&mut keeper, &words("nfacct list"), "").1, text);
}

#[test]
fn names_are_quoted_in_xml_and_json_and_numbers_that_are_none_are_read_as_c_reads_them() {
    let mut keeper = InProcess(RuleTables::new(1));
    let mut run = |argv: &[&str]| {
        let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
        run_line(&mut keeper, &argv, "")
    };
    assert_eq!(run(&["nfacct", "add", "<a \"&\">"]).0, 0);
    assert!(run(&["nfacct", "list", "xml"]).1.contains("<name>&lt;a \"&amp;\"&gt;</name>"));
    let json: serde_json::Value = serde_json::from_str(&run(&["nfacct", "list", "json"]).1).expect("JSON");
    assert_eq!(json["nfacct_counters"][0]["name"], "<a \"&\">");
    let refused = run(&["nfacct", "monitor"]);
    assert!(refused.0 == 1 && refused.2.starts_with("nfacct v1.0.2: monitor is not built"), "{refused:?}");
    for (text, value) in [("5x", Some(5)), ("-5", Some(u64::MAX - 4)), (" +7", Some(7)), ("0x10", Some(0))] {
        assert_eq!(leading(text).map(|(value, _)| value), value, "{text}");
    }
    assert_eq!(leading("99999999999999999999999"), Some((u64::MAX, "")));
    assert_eq!((leading("x"), leading(""), leading("-")), (None, None, None));
}
