//! The prepared statements that a text names: by EXECUTE, PREPARE and DEALLOCATE.

use crate::hints::deallocate::cut;
use crate::hints::{Naming, is};
use crate::lexer::{Lexer, Token, name};

/// Every name, in order; none if a name cannot be read, or what is text depends on a setting.
pub(super) fn all(text: &[u8]) -> Option<Vec<Naming>> {
    let mut names = Vec::new();
    let mut lexer = Lexer::new(text).peekable();
    let mut first = true;
    while let Some(token) = lexer.next() {
        let starts = core::mem::replace(&mut first, token == Token::Semicolon);
        let Token::Word(word) = token else { continue };
        let mut naming = Naming::default();
        if is(word, "execute") {
            // Wherever it stands: behind EXPLAIN and AS as well.
            naming.runs = true;
        } else if starts && is(word, "prepare") {
            naming.makes = true;
        } else if starts && is(word, "deallocate") {
            naming.drops = true;
        } else {
            continue;
        }
        let Some(mut meant) = lexer.next_if(|token| *token != Token::Semicolon) else { continue };
        let follows = lexer.peek().is_some_and(|token| *token != Token::Semicolon);
        if naming.drops && is_word(meant, "prepare") && follows {
            meant = lexer.next()?;
        }
        let transaction = naming.makes
            && is_word(meant, "transaction")
            && matches!(lexer.peek(), Some(Token::String(_)));
        if transaction || naming.drops && is_word(meant, "all") {
            continue;
        }
        if matches!(meant, Token::Escaped(_)) {
            return None;
        }
        let Some(name) = name(meant) else { continue };
        naming.name = cut(name.into_owned());
        names.push(naming);
    }
    let mut again = Lexer::new(text);
    while again.next().is_some() {}
    (!again.is_ambiguous()).then_some(names)
}

fn is_word(token: Token<'_>, lower: &str) -> bool {
    matches!(token, Token::Word(word) if is(word, lower))
}

#[cfg(test)]
mod tests {
    use crate::hints::{Naming, statement_names};

    fn said(text: &str) -> Option<String> {
        let word = |naming: Naming| {
            let how = [(naming.runs, "runs"), (naming.makes, "makes"), (naming.drops, "drops")];
            let how: Vec<_> = how.iter().filter(|(is, _)| *is).map(|(_, how)| *how).collect();
            format!("{} {}", how.join(" and "), String::from_utf8(naming.name).unwrap())
        };
        let names = statement_names(text.as_bytes())?;
        Some(names.into_iter().map(word).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn names_are_found_wherever_a_text_means_them() {
        for (text, names) in [
            ("EXECUTE S(1)", "runs s"),
            ("execute \"S\"\"\"; SELECT 1", "runs S\""),
            ("EXPLAIN (ANALYZE) EXECUTE s; CREATE TABLE t AS EXECUTE u", "runs s, runs u"),
            ("PREPARE s (int) AS SELECT $1; prepare /* x */ t AS SELECT 1", "makes s, makes t"),
            ("PREPARE transaction AS SELECT 1", "makes transaction"),
            (
                "DEALLOCATE s;DEALLOCATE prepare T;; deallocate prepare",
                "drops s, drops t, drops prepare",
            ),
            ("DEALLOCATE \"all\"", "drops all"),
            ("PREPARE TRANSACTION 'x'; DEALLOCATE ALL; DEALLOCATE PREPARE ALL; EXECUTE", ""),
            ("SELECT 'EXECUTE s', $$DEALLOCATE s$$ -- EXECUTE s", ""),
            ("SELECT prepare, deallocate s FROM t", ""),
        ] {
            assert_eq!(said(text).as_deref(), Some(names), "{text}");
        }
    }

    #[test]
    fn a_text_that_may_be_read_in_two_ways_is_not_read() {
        assert_eq!(said("EXECUTE U&\"s\""), None);
        assert_eq!(said(r"SELECT 'a\'; EXECUTE s; --'"), None);
    }
}
