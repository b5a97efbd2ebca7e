//! Where reads go: `[routing]` for all databases, `[databases.routing]` over it for one.

use crate::config::error::Errors;
use crate::config::table::{At, Table};
use crate::config::{Consistency, Fallback, Pattern, Reads, Route, Routing, Rule};
use std::collections::BTreeSet;

/// Lays the keys of `table` over `routing`.
pub(super) fn lay_over(routing: &mut Routing, mut table: Table<'_>, errors: &mut Errors) {
    let reads = [("primary", Reads::Primary), ("replicas", Reads::Replicas), ("all", Reads::All)];
    table.choice("reads", &reads, &mut routing.reads, errors);
    table.choice("leading_reads", &reads[..2], &mut routing.leading_reads, errors);
    let levels = [
        ("strict", Consistency::Strict),
        ("session", Consistency::Session),
        ("eventual", Consistency::Eventual),
    ];
    table.choice("consistency", &levels, &mut routing.consistency, errors);
    table.time("lag_max", core::time::Duration::from_millis(1), &mut routing.lag_max, errors);
    table.bytes("lag_bytes_max", 1..=1 << 30, &mut routing.lag_bytes_max, errors);
    table.timeout("read_wait_max", &mut routing.read_wait_max, errors);
    let fallbacks = [("primary", Fallback::Primary), ("error", Fallback::Error)];
    table.choice("fallback", &fallbacks, &mut routing.fallback, errors);
    table.timeout("slow_start", &mut routing.slow_start, errors);
    if let Some(zone) = table.text("zone", errors) {
        routing.zone = zone.value;
    }
    for (key, slot) in [
        ("functions_read", &mut routing.functions_read),
        ("functions_write", &mut routing.functions_write),
    ] {
        if let Some(list) = table.texts(key, errors) {
            *slot = list.value.into_iter().map(|At { value, .. }| value).collect();
        }
    }
    let both: BTreeSet<_> = routing.functions_read.intersection(&routing.functions_write).collect();
    if let Some(name) = both.first() {
        let message = format!("{name:?} is in functions_read, too");
        table.blame(table.line, "functions_write", message, errors);
    }
    if let Some(tables) = table.tables("rules", errors) {
        routing.rules = tables.into_iter().map(|table| rule(table, errors)).collect();
    }
    table.finish(errors);
}

fn rule(mut table: Table<'_>, errors: &mut Errors) -> Rule {
    let routes = [("auto", Route::Auto), ("primary", Route::Primary), ("replica", Route::Replica)];
    let mut names = |key| table.name_of(key, errors).map(|name| pattern(&name.value));
    let (user, application_name) = (names("user"), names("application_name"));
    let mut route = None;
    let some = routes.map(|(word, route)| (word, Some(route)));
    let before = errors.len();
    table.choice("route", &some, &mut route, errors);
    if user.is_none() && application_name.is_none() {
        let message =
            "missing; a rule says whose statements it is for, by user or application_name";
        table.blame(table.line, "user", message, errors);
    }
    if route.is_none() && errors.len() == before {
        let message = "missing; one of auto, primary, replica";
        table.blame(table.line, "route", message, errors);
    }
    table.finish(errors);
    Rule { user, application_name, route: route.unwrap_or(Route::Auto) }
}

/// A star at the end stands for all that may follow.
fn pattern(name: &str) -> Pattern {
    let cut = name.strip_suffix('*');
    Pattern { text: cut.unwrap_or(name).to_owned(), open: cut.is_some() }
}

#[cfg(test)]
mod tests {
    use super::pattern;
    use crate::config::{Reads, Route, Routing, Rule};

    #[test]
    fn a_rule_says_whose_statements_go_where() {
        let text = "[auth]\nmethod = \"trust\"\n[[clusters]]\nname = \"a\"\n[[clusters.nodes]]\n\
                    name = \"b\"\naddress = \"127.0.0.1:1\"\n[[routing.rules]]\n\
                    route = \"primary\"\n[[routing.rules]]\nuser = \"x\"\n\
                    [[routing.rules]]\nusr = \"x\"\nuser = \"y\"\nroute = \"replicas\"\n";
        let errors =
            crate::config::parse(text, &mut |_: &_| Ok(String::new())).expect_err("it is wrong");
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "line 8: routing.rules.user: missing; a rule says whose statements it is for, by \
                 user or application_name",
                "line 10: routing.rules.route: missing; one of auto, primary, replica",
                "line 13: routing.rules.usr: unknown key; did you mean \"user\"?",
                "line 15: routing.rules.route: unknown value \"replicas\"; did you mean \
                 \"replica\"?",
            ]
        );
    }

    #[test]
    fn reads_go_where_the_config_says_if_it_can_be_had() {
        let nodes = "[auth]\nmethod = \"trust\"\n[[clusters]]\nname = \"a\"\n\
                     [[clusters.nodes]]\nname = \"b\"\naddress = \"127.0.0.1:1\"\n\
                     [[databases]]\nname = \"*\"\ncluster = \"a\"\n";
        let read = |more: &str| {
            crate::config::parse(&format!("{more}\n{nodes}"), &mut |_: &_| Ok(String::new()))
                .map(|config| config.databases[0].routing.reads)
                .map_err(|errors| errors.iter().map(ToString::to_string).collect::<String>())
        };
        assert_eq!(read(""), Ok(Reads::Primary));
        let user = "monitor.user = \"m\"\n";
        for (word, reads) in [("replicas", Reads::Replicas), ("all", Reads::All)] {
            let asked = format!("routing.reads = \"{word}\"");
            assert_eq!(read(&format!("{user}{asked}")), Ok(reads));
            let error = read(&asked).expect_err("nobody knows where the nodes stand");
            assert!(error.contains("monitor.user: missing"), "{error}");
            let error = read(&format!("{user}{asked}\npool.mode = \"session\""));
            let error = error.expect_err("a session stays where it is");
            assert!(error.contains("only \"primary\" has an effect"), "{error}");
        }
        // What may write later begins on a standby, or not.
        let error = read(&format!("{user}routing.leading_reads = \"all\"")).expect_err("no word");
        assert!(error.contains("unknown value \"all\""), "{error}");
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rule = |user: &str, name: &str, route| Rule {
            user: (!user.is_empty()).then(|| pattern(user)),
            application_name: (!name.is_empty()).then(|| pattern(name)),
            route,
        };
        let rules = vec![
            rule("report", "psql", Route::Auto),
            rule("report", "", Route::Replica),
            rule("", "billing*", Route::Primary),
        ];
        let routing = Routing { rules, ..Routing::default() };
        let cases = [
            ("report", "psql", Route::Auto),
            ("report", "psql2", Route::Replica),
            ("report", "billing", Route::Replica),
            ("reporter", "", Route::Auto),
            ("app", "billing", Route::Primary),
            ("app", "billing-cron", Route::Primary),
            ("app", "Billing", Route::Auto),
        ];
        for (user, name, route) in cases {
            assert_eq!(routing.route(user, name), route, "{user} {name}");
        }
    }
}
