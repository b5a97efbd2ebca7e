//! The language of modelled nodes: a little of SQL, enough to say who asks and what for.
//!
//! Everybody's statements carry a mark of whose they are: a nonce `c<life>.<number>` in a literal
//! or in a comment. [`owner`] finds it.

/// A value to be worked out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    /// A literal.
    Text(String),
    /// NULL.
    Null,
    /// `$n`, from zero.
    Param(usize),
    /// A function, in lower case and without its schema.
    Call(String, Vec<Self>),
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stmt {
    /// SELECT of some values, from a table if there is one.
    Select(Vec<Expr>, Option<String>),
    /// BEGIN: READ ONLY or not.
    Begin(bool),
    /// COMMIT.
    Commit,
    /// ROLLBACK.
    Rollback,
    /// SET or RESET of one parameter: its name, its value (none: the default), LOCAL.
    Set(String, Option<String>, bool),
    /// RESET ALL.
    ResetAll,
    /// DISCARD ALL.
    DiscardAll,
    /// SHOW of one parameter.
    Show(String),
    /// COPY FROM STDIN.
    CopyIn,
    /// COPY TO STDOUT.
    CopyOut(Vec<Expr>),
    /// LISTEN on a channel.
    Listen(String),
    /// UNLISTEN *.
    Unlisten,
    /// CREATE TEMP TABLE.
    TempTable(String),
    /// PREPARE: the name and the statement.
    Prepare(String, Box<Self>),
    /// EXECUTE: the name and the arguments.
    Execute(String, Vec<Expr>),
    /// DEALLOCATE: the name, or all.
    Deallocate(Option<String>),
    /// INSERT of one row: its nonce.
    Insert(Expr),
    /// What pgring asks to learn the state of a session: names with a dot it wants to know.
    Inspect(Vec<String>),
    /// What this node does not understand.
    Bad(String),
}

impl Stmt {
    /// Whether it is refused where nothing may be written.
    pub(crate) fn writes(&self) -> bool {
        matches!(self, Self::Insert(_) | Self::CopyIn | Self::TempTable(_) | Self::Listen(_))
    }

    /// Whether it asks for what was inserted.
    pub(crate) fn sees(&self) -> bool {
        let sees = |expr: &Expr| matches!(expr, Expr::Call(name, _) if name == "seen");
        matches!(self, Self::Select(list, _) if list.iter().any(sees))
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Param(usize),
    Mark(char),
}

/// Whose text this is: the number of the first `c<number>.` in it.
pub(crate) fn owner(text: &str) -> Option<u32> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let starts = bytes[at] == b'c' && (at == 0 || !bytes[at - 1].is_ascii_alphanumeric());
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if starts && digits > 0 && bytes.get(at + 1 + digits) == Some(&b'.') {
            return text[at + 1..at + 1 + digits].parse().ok();
        }
        at += 1;
    }
    None
}

/// The statements of a text.
pub(crate) fn parse(text: &str) -> Vec<Stmt> {
    tokens(text)
        .split(|token| *token == Token::Mark(';'))
        .filter(|tokens| !tokens.is_empty())
        .map(|tokens| Parser { tokens, at: 0 }.statement())
        .collect()
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut list = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        match chars[at] {
            space if space.is_whitespace() => at += 1,
            '/' if chars.get(at + 1) == Some(&'*') => {
                while at + 1 < chars.len() && !(chars[at] == '*' && chars[at + 1] == '/') {
                    at += 1;
                }
                at += 2;
            }
            '-' if chars.get(at + 1) == Some(&'-') => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            quote @ ('\'' | '"') => {
                let (value, end) = quoted(&chars, at, quote);
                list.push(if quote == '"' { Token::Word(value) } else { Token::Text(value) });
                at = end;
            }
            '$' => {
                let digits: String =
                    chars[at + 1..].iter().take_while(|c| c.is_ascii_digit()).collect();
                list.push(Token::Param(digits.parse::<usize>().unwrap_or(1) - 1));
                at += 1 + digits.len();
            }
            letter if letter.is_alphanumeric() || letter == '_' => {
                let word: String = chars[at..]
                    .iter()
                    .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
                    .collect();
                at += word.chars().count();
                // E'...' is a literal with another quote.
                if !(word.eq_ignore_ascii_case("e") && chars.get(at) == Some(&'\'')) {
                    list.push(Token::Word(word));
                }
            }
            mark => {
                list.push(Token::Mark(mark));
                at += 1;
            }
        }
    }
    list
}

fn quoted(chars: &[char], start: usize, quote: char) -> (String, usize) {
    let mut value = String::new();
    let mut at = start + 1;
    while at < chars.len() {
        if chars[at] == quote {
            if chars.get(at + 1) != Some(&quote) {
                break;
            }
            at += 1;
        }
        value.push(chars[at]);
        at += 1;
    }
    (value, at + 1)
}

struct Parser<'tokens> {
    tokens: &'tokens [Token],
    at: usize,
}

impl Parser<'_> {
    fn word(&self, ahead: usize) -> String {
        match self.tokens.get(self.at + ahead) {
            Some(Token::Word(word)) => word.to_ascii_lowercase(),
            _ => String::new(),
        }
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = self.word(0) == word;
        self.at += usize::from(found);
        found
    }

    fn eat_mark(&mut self, mark: char) -> bool {
        let found = self.tokens.get(self.at) == Some(&Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn has(&self, word: &str) -> bool {
        self.tokens
            .iter()
            .any(|token| matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word)))
    }

    fn name(&mut self) -> String {
        let mut name = match self.tokens.get(self.at) {
            Some(Token::Word(name) | Token::Text(name)) => name.clone(),
            _ => String::new(),
        };
        self.at += 1;
        if self.eat_mark('.') {
            name.push('.');
            name.push_str(&self.name());
        }
        name
    }

    fn statement(&mut self) -> Stmt {
        let first = self.word(0);
        self.at += 1;
        match first.as_str() {
            "select" => self.select(),
            "begin" | "start" => Stmt::Begin(self.has("only")),
            "commit" | "end" => Stmt::Commit,
            "rollback" | "abort" => Stmt::Rollback,
            "set" => self.set(),
            "reset" => match self.name() {
                all if all.eq_ignore_ascii_case("all") => Stmt::ResetAll,
                name => Stmt::Set(name, None, false),
            },
            "discard" => Stmt::DiscardAll,
            "show" => Stmt::Show(self.name()),
            "copy" if self.has("stdin") => Stmt::CopyIn,
            "copy" => {
                self.eat_mark('(');
                self.eat("select");
                Stmt::CopyOut(self.list())
            }
            "listen" => Stmt::Listen(self.name()),
            "unlisten" => Stmt::Unlisten,
            "create" => {
                self.at += 2;
                Stmt::TempTable(self.name())
            }
            "prepare" => {
                let name = self.name();
                self.eat("as");
                Stmt::Prepare(name, Box::new(self.statement()))
            }
            "execute" => {
                let name = self.name();
                let args = if self.eat_mark('(') { self.list() } else { Vec::new() };
                Stmt::Execute(name, args)
            }
            "deallocate" => {
                self.eat("prepare");
                let name = self.name();
                Stmt::Deallocate((!name.eq_ignore_ascii_case("all")).then_some(name))
            }
            "insert" => {
                let value = self.tokens.iter().position(|token| *token == Token::Mark('('));
                self.at = value.map_or(self.tokens.len(), |at| at + 1);
                Stmt::Insert(self.expr())
            }
            _ => Stmt::Bad(format!("{:?}", self.tokens)),
        }
    }

    /// The names in `current_setting('name', true)`.
    fn customs(&self) -> Vec<String> {
        let mut names = Vec::new();
        for four in self.tokens.windows(4) {
            if let [Token::Word(word), Token::Mark('('), Token::Text(name), Token::Mark(',')] = four
                && word.ends_with("current_setting")
            {
                names.push(name.to_ascii_lowercase());
            }
        }
        names
    }

    fn select(&mut self) -> Stmt {
        if self.has("pg_catalog.pg_settings") {
            return Stmt::Inspect(self.customs());
        }
        let list = self.list();
        let from = self.eat("from").then(|| self.name());
        Stmt::Select(list, from)
    }

    fn set(&mut self) -> Stmt {
        let local = self.eat("local");
        self.eat("session");
        let name = if self.eat("time") {
            self.eat("zone");
            "timezone".to_owned()
        } else {
            let name = self.name();
            let _ = self.eat("to") || self.eat_mark('=');
            name
        };
        if self.eat("default") {
            return Stmt::Set(name, None, local);
        }
        let mut values = Vec::new();
        while self.at < self.tokens.len() {
            values.push(self.name());
            self.eat_mark(',');
        }
        Stmt::Set(name, Some(values.join(", ")), local)
    }

    fn list(&mut self) -> Vec<Expr> {
        let mut list = Vec::new();
        while self.at < self.tokens.len() && self.tokens[self.at] != Token::Mark(')') {
            list.push(self.expr());
            if !self.eat_mark(',') {
                break;
            }
        }
        self.eat_mark(')');
        list
    }

    fn expr(&mut self) -> Expr {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        let expr = match token {
            Some(Token::Text(text)) => Expr::Text(text),
            Some(Token::Param(number)) => Expr::Param(number),
            Some(Token::Word(word)) if self.eat_mark('(') => {
                let lower = word.to_ascii_lowercase();
                let bare = lower.rsplit('.').next().unwrap_or_default().to_owned();
                Expr::Call(bare, self.list())
            }
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("null") => Expr::Null,
            Some(Token::Word(word)) => Expr::Text(word),
            Some(Token::Mark(mark)) => Expr::Text(mark.to_string()),
            None => Expr::Null,
        };
        while self.eat_mark(':') {
            self.eat_mark(':');
            self.at += 1;
        }
        expr
    }
}
