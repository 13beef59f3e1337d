//! The program itself: its output on traces whose restores can be counted by hand, and its errors.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Two places: least recently used, first in first out, and what knows the future choose differently.
const TRACE: &str = "\
time_s,session,kind,duration_s,software,tenant,note
0,a,init,0,agent,t1,
0,a,ready,0,agent,t1,
1,b,init,0,,,more columns are ignored
1,b,ready,0,,,
2,a,call,0,agent,t1,
3,c,init,0,,,
3,c,ready,0,,,
4,b,call,0,,,
5,a,call,0,agent,t1,
6,c,list,0,,,
";

/// A file that is removed with this.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("rmcp-session-policy-lab-{}-{name}", std::process::id()));
        fs::write(&path, text).expect("the folder for temporary files can be written to");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the folder for temporary files has a name in UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

fn lab(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rmcp-session-policy-lab")).args(arguments).output().expect("the program was built")
}

fn json(arguments: &[&str]) -> Value {
    let output = lab(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it printed JSON")
}

/// Replays a trace with these arguments.
fn replay(name: &str, trace: &str, arguments: &str) -> Value {
    let file = File::new(name, trace.as_bytes());
    let arguments = arguments.split_whitespace();
    json(&["replay", file.path()].into_iter().chain(arguments).chain(["--format", "json"]).collect::<Vec<_>>())
}

#[test]
fn a_replay_counts_what_can_be_counted_by_hand() {
    let mut runs = replay("hand.csv", TRACE, "--max-sessions 2,3 --policy lru,fifo,belady");
    for run in runs.as_array_mut().unwrap().iter_mut().filter_map(Value::as_object_mut) {
        // 70 % of the time from 0 to 6 s.
        let places = run.remove("mean_places").and_then(|places| places.as_f64()).unwrap();
        let full = run["max_sessions"].as_f64().unwrap();
        assert!(places <= full && places > full - 0.3, "c comes at 3: {places}");
        let resumptions = ["resumptions", "resumptions_kept"].map(|field| run.remove(field));
        assert_eq!(resumptions, [Some(json!(0)), Some(json!(0))], "no session pauses for a minute");
    }
    let run = |policy: &str, max_sessions: usize, restores: usize, evictions: usize| {
        json!({
            "policy": policy,
            "max_sessions": max_sessions,
            "requests": 4,
            "restores": restores,
            "restores_per_1000": restores as f64 * 250.0,
            "evictions": evictions,
            "refused": 0,
            "busy_cut": 0,
        })
    };
    // LRU: c takes the place of b, b that of a, a that of c, c that of b. FIFO: c that of a, a that of b.
    let three = ["lru", "fifo", "belady"].map(|policy| run(policy, 3, 0, 0));
    let expected: Vec<_> =
        [run("lru", 2, 3, 4), run("fifo", 2, 1, 2), run("belady", 2, 1, 2)].into_iter().chain(three).collect();
    assert_eq!(runs, Value::Array(expected));
}

#[test]
fn the_warm_up_is_not_counted() {
    // 30 % of the span are 1.8 s.
    let by_default = replay("warm-1.csv", TRACE, "--max-sessions 2 --policy lru");
    assert_eq!((&by_default[0]["requests"], &by_default[0]["evictions"]), (&json!(4), &json!(4)));
    let late = replay("warm-2.csv", TRACE, "--max-sessions 2 --policy lru --warm 4.5");
    assert_eq!([&late[0]["requests"], &late[0]["restores"], &late[0]["evictions"]], [&json!(2), &json!(2), &json!(2)]);
    let none = replay("warm-3.csv", TRACE, "--max-sessions 2 --policy lru --warm 100");
    assert_eq!((&none[0]["requests"], &none[0]["restores_per_1000"]), (&json!(0), &json!(0.0)));
}

#[test]
fn a_bound_may_be_a_share_of_the_places_needed() {
    let file = File::new("needed.csv", TRACE.as_bytes());
    let arguments = ["replay", file.path(), "--max-sessions", "50%,100%", "--policy", "lru", "--format"];
    let table = lab(&[&arguments[..], &["table"]].concat());
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("needed: 2 places\n"), "a and b call, c does not: {table}");
    assert_eq!(table.lines().count(), 4);
    let output = lab(&[&arguments[..], &["json"]].concat());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "needed: 2 places\n");
    let runs: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!([&runs[0]["max_sessions"], &runs[1]["max_sessions"]], [&json!(1), &json!(2)]);
}

#[test]
fn a_busy_session_is_cut_only_by_the_policy_that_does_that() {
    let trace = "time_s,session,kind,duration_s,software,tenant
0,a,init,0,,
0,a,ready,0,,
1,a,call,10,,
2,b,init,0,,
2.5,b,ready,0,,
20,a,call,0,,
";
    let runs = replay("busy.csv", trace, "--max-sessions 1 --policy default,fifo,mcp-session --warm 0");
    for policy in 0..2 {
        let fields =
            ["restores", "evictions", "refused", "busy_cut"].map(|field| runs[policy][field].as_u64().unwrap());
        assert_eq!(fields, [0, 0, 1, 0], "b is refused");
    }
    let fields = ["restores", "evictions", "refused", "busy_cut"].map(|field| runs[2][field].as_u64().unwrap());
    assert_eq!(fields, [1, 2, 0, 1], "a is cut, and comes back");
}

#[test]
fn idle_sessions_lose_their_places_if_that_is_asked_for() {
    let trace = "time_s,session,kind,duration_s,software,tenant
0,a,init,0,,
0,a,ready,0,,
100,a,call,0,,
150,a,call,0,,
";
    for (arguments, restores) in [("", 0), ("--idle 60", 1), ("--idle 60 --no-parking", 1), ("--idle 40", 2)] {
        let runs = replay("idle.csv", trace, &format!("--max-sessions 9 --policy lru --warm 0 {arguments}"));
        assert_eq!((&runs[0]["restores"], &runs[0]["evictions"]), (&json!(restores), &json!(0)), "{arguments}");
        // The call after 100 s is a resumption, the one after 50 s is not.
        let kept = u64::from(arguments.is_empty());
        assert_eq!((&runs[0]["resumptions"], &runs[0]["resumptions_kept"]), (&json!(1), &json!(kept)), "{arguments}");
        let places = match arguments {
            "" => 1.0,
            "--idle 40" => 80.0 / 150.0,
            _ => 110.0 / 150.0,
        };
        assert_eq!(runs[0]["mean_places"], json!(places), "{arguments}");
    }
}

#[test]
fn a_share_of_the_resumptions_is_kept_with_fewer_places_than_by_a_fixed_time() {
    let trace = lab(&["generate", "coding", "--seed", "1", "--hours", "8"]);
    let file = File::new("worth.csv", &trace.stdout);
    let replay = |idle: &str| {
        let arguments = ["--max-sessions", "1000000", "--policy", "default", "--idle", idle, "--format", "json"];
        let runs = json(&[&["replay", file.path()], &arguments[..]].concat());
        let number = |field: &str| runs[0][field].as_f64().unwrap();
        (number("resumptions_kept") / number("resumptions"), number("mean_places"))
    };
    let ((fewer_kept, fewest), (kept, few), (_, many)) = (replay("keep:0.8"), replay("keep:0.9"), replay("3600"));
    assert!((0.75..0.85).contains(&fewer_kept) && (0.85..0.95).contains(&kept), "{fewer_kept} {kept}");
    assert!(fewest < few && few * 3.0 < many, "{fewest} {few} {many}");
}

#[test]
fn an_idle_rule_that_makes_no_sense_is_refused() {
    let file = File::new("rule.csv", TRACE.as_bytes());
    for (rule, policy, says) in [
        ("keep:1", "default", "keep:0.95"),
        ("keep:", "default", "keep:0.95"),
        ("soon", "default", "number of seconds"),
        ("-1", "default", "number of seconds"),
        ("keep:0.9", "lru", "lru does not know"),
    ] {
        let rule = format!("--idle={rule}");
        let output = lab(&["replay", file.path(), "--max-sessions", "2", "--policy", policy, &rule]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains(says), "{rule}: {error}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_jobs() {
    let trace = lab(&["generate", "mixed", "--seed", "3", "--hours", "2"]);
    assert_eq!(trace.stdout, lab(&["generate", "mixed", "--seed", "3", "--hours", "2"]).stdout);
    let file = File::new("jobs.csv", &trace.stdout);
    let policies = "default,lru,lfu,fifo,random,scored,sieve,s3fifo,lhd,hyperbolic,belady";
    let with = |jobs: &str| {
        let arguments = ["replay", file.path(), "--max-sessions", "40%,80%", "--policy", policies, "--jobs", jobs];
        json(&[&arguments[..], &["--format", "json"]].concat())
    };
    let one = with("1");
    assert_eq!(one.as_array().unwrap().len(), 22);
    assert!(one.as_array().unwrap().iter().all(|run| run["restores"].as_u64() > Some(0)));
    assert_eq!(one, with("1"));
    assert_eq!(one, with("7"));
}

#[test]
fn a_flood_is_told_as_json() {
    let arguments = "flood --policy lru --kind b --calls once --addresses 10000 --seed 1 --format json";
    let outcome = json(&arguments.split(' ').collect::<Vec<_>>());
    let field = |name: &str| outcome[name].as_u64().unwrap();
    assert_eq!(outcome.as_object().unwrap().len(), 5);
    assert!(field("users") > 450 && field("lost") <= field("users"));
    assert!(field("lost") * 10 > field("users") * 8, "nine in ten users lose their session: {outcome}");
    assert!(field("newcomers") > 100 && field("newcomers_lost") * 2 > field("newcomers"), "{outcome}");
    assert_eq!(field("refused"), 0);
}

#[test]
fn an_error_is_one_line_and_code_2() {
    let unsorted = File::new("unsorted.csv", format!("{TRACE}5,a,call,0,,\n").as_bytes());
    let empty = File::new("empty.csv", b"");
    let replay = |path, rest: &'static str| [vec!["replay", path], rest.split(' ').collect()].concat();
    let sound = "--max-sessions 2 --policy lru";
    for (arguments, message) in [
        (replay("nowhere.csv", sound), "error: nowhere.csv: "),
        (replay(unsorted.path(), sound), "error: line 12, column time_s: it is before"),
        (replay(empty.path(), sound), "error: line 1, column time_s: it is missing"),
        (replay(unsorted.path(), "--max-sessions 0 --policy lru"), "error: invalid value '0'"),
        (replay(unsorted.path(), "--max-sessions 2 --policy mru"), "error: invalid value 'mru'"),
        (vec!["generate", "poetry", "--seed", "1"], "error: preset poetry: it is neither a file nor one of coding"),
        ("flood --policy lru --kind a --addresses 0".split(' ').collect(), "error: 0 addresses"),
        (vec!["draw"], "error: unrecognized subcommand 'draw'"),
    ] {
        let output = lab(&arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.starts_with(message), "{told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
        assert!(output.stdout.is_empty());
    }
}
