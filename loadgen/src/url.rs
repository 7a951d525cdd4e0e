//! A load of one request on any server, with parts that differ from one to the next.

use std::sync::Arc;

use http::Method;

use crate::engine::{FollowUp, Load, Taken};
use crate::recorder::Recorder;
use crate::template::{CsvTable, Place, RenderContext, Template, TemplateError};
use crate::wire::{Answer, Request, Tag};

/// What is sent.
#[derive(Clone, Debug)]
pub struct UrlRequest {
    method: Method,
    path: Template,
    headers: Vec<(String, Template)>,
    body: Template,
    seed: u64,
}

/// Why a request can't be made of its parts.
#[derive(Debug, thiserror::Error)]
pub enum UrlRequestError {
    /// A part isn't a template, or can't stand where it does.
    #[error("{part}: {source}")]
    Template {
        /// Which part.
        part: String,
        /// What is wrong with it.
        source: TemplateError,
    },
    /// Not a header.
    #[error("{found:?} is not a header such as \"accept: text/plain\"")]
    Header {
        /// What was given.
        found: String,
    },
    /// A header that the protocol writes itself.
    #[error("the header {name} is written by the generator itself")]
    Reserved {
        /// Which.
        name: String,
    },
}

/// Headers that are the protocol's own business.
const RESERVED: [&str; 5] = ["host", "content-length", "connection", "transfer-encoding", "te"];

impl UrlRequest {
    /// Of a path with its query, headers as `name: value`, and a body; all may be templates.
    pub fn new(
        method: Method,
        path: &str,
        headers: &[String],
        body: &str,
        table: Option<&Arc<CsvTable>>,
        seed: u64,
    ) -> Result<UrlRequest, UrlRequestError> {
        let template = |part: &str, text: &str, place| {
            let parsed = Template::parse(text, table);
            let checked = parsed.and_then(|parsed| parsed.check(place).map(|()| parsed));
            let part = part.to_string();
            checked.map_err(|source| UrlRequestError::Template { part, source })
        };
        let mut named = Vec::new();
        for header in headers {
            let wrong = || UrlRequestError::Header { found: header.clone() };
            let (name, value) = header.split_once(':').ok_or_else(wrong)?;
            let name = http::HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
            if RESERVED.contains(&name.as_str()) {
                return Err(UrlRequestError::Reserved { name: name.to_string() });
            }
            let value = template(name.as_str(), value.trim(), Place::Header)?;
            named.push((name.to_string(), value));
        }
        Ok(UrlRequest {
            method,
            path: template("the URL", path, Place::Target)?,
            headers: named,
            body: template("the body", body, Place::Body)?,
            seed,
        })
    }
}

/// One thread's requests.
pub struct UrlLoad(pub Arc<UrlRequest>);

impl Load for UrlLoad {
    fn kinds(&self) -> &'static [&'static str] {
        &["request"]
    }

    fn scheduled(&mut self, n: u64) -> Tag {
        Tag { kind: 0, n }
    }

    fn units(&self, _request: &Request) -> u64 {
        1
    }

    fn build(&mut self, tag: Tag, request: &mut Request) {
        let sent = &self.0;
        let context = RenderContext { seed: sent.seed, n: tag.n, unix_ms: request.unix_ms };
        request.method.clone_from(&sent.method);
        sent.path.render(&context, &mut request.path);
        for (name, value) in &sent.headers {
            request.headers.extend_from_slice(name.as_bytes());
            request.headers.extend_from_slice(b": ");
            value.render(&context, &mut request.headers);
            request.headers.extend_from_slice(b"\r\n");
        }
        sent.body.render(&context, &mut request.body);
    }

    fn answered(
        &mut self,
        _request: &mut Request,
        answer: Answer<'_>,
        _recorder: &mut Recorder,
        _follow_ups: &mut Vec<FollowUp>,
    ) -> Taken {
        match answer.status {
            200..400 => Taken::Done { accepted: 1 },
            status => Taken::Failed(format!("status {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_made_of_its_parts() {
        let headers = ["Accept: text/plain".to_string(), "x-n: {{n}}".to_string()];
        let made = UrlRequest::new(Method::POST, "/a?b={{n}}", &headers, "<{{n}}>", None, 1);
        let mut load = UrlLoad(Arc::new(made.unwrap()));
        let mut request = Request::default();
        load.build(Tag { kind: 0, n: 7 }, &mut request);
        assert_eq!(request.path, b"/a?b=7");
        assert_eq!(request.headers, b"accept: text/plain\r\nx-n: 7\r\n");
        assert_eq!(request.body, b"<7>");
    }

    #[test]
    fn parts_that_cannot_be_are_named() {
        let said = |path: &str, header: &str| {
            let headers = [header.to_string()];
            UrlRequest::new(Method::GET, path, &headers, "", None, 1).unwrap_err().to_string()
        };
        assert!(said("/{{nothing}}", "a: b").starts_with("the URL: "));
        assert!(said("/", "no header").contains("is not a header"));
        assert!(said("/", "Host: x").contains("host"));
        assert!(said("/", "a: {{csv:x}}").starts_with("a: "));
    }
}
