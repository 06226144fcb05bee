//! Which pages of other origins a bucket's rules let in, and what browsers are told of it.
//!
//! Owns how a rule fits a request: as S3 has it, the first that fits counts. Refuses nothing by itself: a browser that is
//! told of no rule keeps the answer from the page.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, VARY,
};
use proto::v1::CorsRule;

use crate::error::ApiError;

/// What an answer that goes by rules depends on, for whoever keeps it.
const VARIES: HeaderValue = HeaderValue::from_static(
    "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
);
/// Headers that one preflight may ask for.
const ASKED_MAX: usize = 128;

/// What a browser asks before, or says with, a request of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    origin: String,
    method: String,
    /// Of a preflight: which headers the request will have, in lower case.
    headers: Vec<String>,
}

impl Asked {
    /// Of a request that is made; `None` where no page of another origin makes it.
    pub(crate) fn made(method: &str, headers: &HeaderMap) -> Option<Self> {
        Some(Self {
            origin: text(headers, &ORIGIN)?.to_owned(),
            method: method.to_owned(),
            headers: Vec::new(),
        })
    }

    /// Of a preflight.
    pub(crate) fn before(headers: &HeaderMap) -> Result<Self, ApiError> {
        let origin = text(headers, &ORIGIN).ok_or(ApiError::BadRequest(
            "Insufficient information. Origin request header needed.",
        ))?;
        let method = text(headers, &ACCESS_CONTROL_REQUEST_METHOD);
        let method = method.ok_or(ApiError::BadRequest(
            "Invalid Access-Control-Request-Method: null",
        ))?;
        let asked = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).into_iter();
        let asked = asked.filter_map(|value| value.to_str().ok());
        let names = asked.flat_map(|value| value.split(','));
        let names = names.map(|name| name.trim().to_ascii_lowercase());
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        if names.len() > ASKED_MAX {
            return Err(ApiError::BadRequest("too many headers are asked for"));
        }
        Ok(Self {
            origin: origin.to_owned(),
            method: method.to_owned(),
            headers: names,
        })
    }

    /// The first rule that lets it in.
    fn rule<'a>(&self, rules: &'a [CorsRule]) -> Option<&'a CorsRule> {
        rules.iter().find(|rule| {
            let allowed = |asked: &String| {
                let mut all = rule.headers.iter();
                all.any(|allowed| fits(&allowed.to_ascii_lowercase(), asked))
            };
            let mut origins = rule.origins.iter();
            rule.methods.contains(&self.method)
                && origins.any(|allowed| fits(allowed, &self.origin))
                && self.headers.iter().all(allowed)
        })
    }

    /// The headers of the answer, where a rule lets the request in.
    pub(crate) fn answer(&self, rules: &[CorsRule]) -> Option<HeaderMap> {
        let rule = self.rule(rules)?;
        let mut answer = HeaderMap::new();
        let mut say = |name: HeaderName, text: String| {
            // They were headers before: rules hold nothing that is none.
            if let (false, Ok(value)) = (text.is_empty(), HeaderValue::try_from(text)) {
                answer.insert(name, value);
            }
        };
        if rule.origins.iter().any(|origin| origin == "*") {
            say(ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned());
        } else {
            say(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
            say(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true".to_owned());
        }
        say(ACCESS_CONTROL_ALLOW_METHODS, rule.methods.join(", "));
        say(ACCESS_CONTROL_ALLOW_HEADERS, self.headers.join(", "));
        say(ACCESS_CONTROL_EXPOSE_HEADERS, rule.exposed.join(", "));
        if let Some(seconds) = rule.max_age_s {
            say(ACCESS_CONTROL_MAX_AGE, seconds.to_string());
        }
        answer.insert(VARY, VARIES);
        Some(answer)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a text is the pattern's, in which one `*` stands for any.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            text.len() >= before.len() + after.len()
                && text.starts_with(before)
                && text.ends_with(after)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origins: &[&str], methods: &[&str], headers: &[&str]) -> CorsRule {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        CorsRule {
            origins: texts(origins),
            methods: texts(methods),
            headers: texts(headers),
            ..CorsRule::default()
        }
    }

    fn preflight(origin: &str, method: &str, headers: &str) -> Asked {
        let mut map = HeaderMap::new();
        let value = |text: &str| HeaderValue::try_from(text).expect("a header");
        map.insert(ORIGIN, value(origin));
        map.insert(ACCESS_CONTROL_REQUEST_METHOD, value(method));
        if !headers.is_empty() {
            map.insert(ACCESS_CONTROL_REQUEST_HEADERS, value(headers));
        }
        Asked::before(&map).expect("a preflight")
    }

    #[test]
    fn one_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("*", "http://any.example", true),
            ("http://*.example", "http://a.b.example", true),
            ("http://*.example", "https://a.example", false),
            ("http://*.example", "http://.example", true),
            ("ab*ba", "aba", false),
            ("https://one.example", "https://one.example", true),
            ("https://one.example", "https://one.example:8443", false),
            ("https://One.example", "https://one.example", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_all_of_it_answers() {
        let first = rule(
            &["https://one.example"],
            &["GET", "PUT"],
            &["Content-*", "x-amz-date"],
        );
        let second = CorsRule {
            exposed: vec!["ETag".to_owned()],
            max_age_s: Some(0),
            ..rule(&["*"], &["GET"], &["*"])
        };
        let rules = [first, second];
        let of = |origin, method, headers| preflight(origin, method, headers).answer(&rules);
        let put = of("https://one.example", "PUT", "Content-Type, X-Amz-Date").expect("first");
        assert_eq!(put[ACCESS_CONTROL_ALLOW_ORIGIN], "https://one.example");
        assert_eq!(put[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(put[ACCESS_CONTROL_ALLOW_METHODS], "GET, PUT");
        let headers = &put[ACCESS_CONTROL_ALLOW_HEADERS];
        assert_eq!(headers, "content-type, x-amz-date");
        assert!(!put.contains_key(ACCESS_CONTROL_MAX_AGE));
        assert_eq!(put[VARY], VARIES);
        // A header that the first does not allow: the second one does.
        let get = of("https://one.example", "GET", "x-other").expect("second");
        assert_eq!(get[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!get.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert_eq!(get[ACCESS_CONTROL_EXPOSE_HEADERS], "ETag");
        assert_eq!(get[ACCESS_CONTROL_MAX_AGE], "0");
        assert_eq!(of("https://one.example", "PUT", "x-other"), None);
        assert_eq!(of("https://two.example", "PUT", ""), None);
        assert_eq!(of("https://two.example", "get", ""), None);
        let none = preflight("https://two.example", "GET", "").answer(&[]);
        assert_eq!(none, None);
    }

    #[test]
    fn what_is_no_preflight_is_refused_as_s3_does() {
        let mut headers = HeaderMap::new();
        let code = |headers: &HeaderMap| Asked::before(headers).err().map(|error| error.code());
        assert_eq!(code(&headers), Some("BadRequest"));
        headers.insert(ORIGIN, HeaderValue::from_static("https://one.example"));
        assert_eq!(code(&headers), Some("BadRequest"));
        let get = HeaderValue::from_static("GET");
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, get);
        assert_eq!(code(&headers), None);
        let many = vec!["a"; ASKED_MAX + 1].join(",");
        let many = HeaderValue::try_from(many).expect("a header");
        headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, many);
        assert_eq!(code(&headers), Some("BadRequest"));
        assert_eq!(Asked::made("GET", &HeaderMap::new()), None);
    }
}
