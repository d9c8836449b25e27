//! What a deployment needs: the template, the definition of the state machine, and the program of all functions as a zip.
//! `make package` and the release workflow write these files.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use crate::{Error, ErrorKind, Result, dataset::sha256};

/// The files of a package.
const TEMPLATE: &str = "template.json";
const PROGRAM: &str = "lambda.zip";
const DEFINITION: &str = "pipeline.asl.json";
/// What stands in the template for the places of the other two files.
const PROGRAM_PLACE: &str = "s3://PACKAGE/lambda.zip";
const DEFINITION_PLACE: &str = "s3://PACKAGE/pipeline.asl.json";

/// A deployment's files.
#[derive(Clone, Debug)]
pub struct Package {
    template: Value,
    text: String,
    program: Bytes,
    definition: Bytes,
}

/// A parameter of the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, such as `MaxConcurrency`.
    pub name: String,
    /// Its default.
    pub default: String,
    /// What it means.
    pub description: String,
    /// All values that it may have; empty if there are others.
    pub values: Vec<String>,
}

/// A file that is uploaded before the deployment.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The key, which has the hash of the content.
    pub key: String,
    /// The content.
    pub body: Bytes,
}

impl Package {
    /// Reads the package in a folder. Fails with `Stack.NoPackage`.
    pub fn open(folder: &Path) -> Result<Package> {
        let read = |name: &str| {
            let file = folder.join(name);
            std::fs::read(&file).map_err(|e| unusable("a file of the package cannot be read", &file).source(e))
        };
        let (template, program, definition) = (read(TEMPLATE)?, read(PROGRAM)?, read(DEFINITION)?);
        let file = folder.join(TEMPLATE);
        let text = String::from_utf8(template).map_err(|e| unusable("the template is no text", &file).source(e))?;
        let template: Value =
            serde_json::from_str(&text).map_err(|e| unusable("the template is no JSON", &file).source(e))?;
        if !text.contains(PROGRAM_PLACE) || !text.contains(DEFINITION_PLACE) || !template["Parameters"].is_object() {
            return Err(unusable("this is not the template of a package", &file));
        }
        Ok(Package { template, text, program: program.into(), definition: definition.into() })
    }

    /// The package that lies beside a program: in the folder `aws` there, in `share/pomona/aws` of the installation, or where
    /// `make package` puts it. Fails with `Stack.NoPackage`.
    pub fn beside(program: &Path) -> Result<Package> {
        let folder = program.parent().unwrap_or(Path::new(""));
        let places: [PathBuf; 3] =
            [folder.join("aws"), folder.join("../share/pomona/aws"), folder.join("../../dist/aws")];
        let Some(found) = places.iter().find(|place| place.join(TEMPLATE).is_file()) else {
            let message = "there is no package of the Lambda functions beside this program";
            let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            return Err(Error::new(ErrorKind::StackNoPackage, message).context("looked in", looked.join(", ")));
        };
        Package::open(found)
    }

    /// The processor of the functions: `x86_64` or `arm64`.
    pub fn architecture(&self) -> &str {
        self.template["Globals"]["Function"]["Architectures"][0].as_str().unwrap_or_default()
    }

    /// The parameters, in the order in which the console groups them.
    pub fn parameters(&self) -> Vec<Parameter> {
        let groups = &self.template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"];
        let names = groups.as_array().into_iter().flatten().flat_map(|group| group["Parameters"].as_array());
        names.flatten().filter_map(|name| self.parameter(name.as_str()?)).collect()
    }

    fn parameter(&self, name: &str) -> Option<Parameter> {
        let found = self.template["Parameters"].get(name)?;
        Some(Parameter {
            name: name.to_owned(),
            default: plain(&found["Default"]),
            description: plain(&found["Description"]),
            values: found["AllowedValues"].as_array().into_iter().flatten().map(plain).collect(),
        })
    }

    /// The program, the definition, and the template, which names where in the bucket the other two are.
    pub fn uploads(&self, bucket: &str) -> [Upload; 3] {
        let upload =
            |body: &Bytes, name: &str| Upload { key: format!("pomona/{}/{name}", sha256(body)), body: body.clone() };
        let (program, definition) = (upload(&self.program, PROGRAM), upload(&self.definition, DEFINITION));
        let place = |upload: &Upload| format!("s3://{bucket}/{}", upload.key);
        let text = self.text.replace(PROGRAM_PLACE, &place(&program)).replace(DEFINITION_PLACE, &place(&definition));
        let template = upload(&text.into(), TEMPLATE);
        [program, definition, template]
    }
}

/// A value of a template as text: numbers have no quotes there.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn unusable(message: &str, file: &Path) -> Error {
    Error::new(ErrorKind::StackNoPackage, message).context("file", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(folder: &Path) {
        let template = serde_json::json!({
            "Globals": {"Function": {"Architectures": ["arm64"]}},
            "Metadata": {"AWS::CloudFormation::Interface": {"ParameterGroups": [{"Parameters": ["Size", "Bucket"]}]}},
            "Parameters": {
                "Bucket": {"Type": "String", "Default": "", "Description": "A bucket"},
                "Size": {"Type": "Number", "Default": 8, "AllowedValues": [8, 16]},
            },
            "Resources": {"A": {"CodeUri": PROGRAM_PLACE}, "B": {"DefinitionUri": DEFINITION_PLACE}},
        });
        std::fs::write(folder.join(TEMPLATE), template.to_string()).unwrap();
        std::fs::write(folder.join(PROGRAM), b"zip").unwrap();
        std::fs::write(folder.join(DEFINITION), b"{}").unwrap();
    }

    #[test]
    fn the_template_names_the_uploaded_files_by_their_hashes() {
        let folder = tempfile::tempdir().unwrap();
        package(folder.path());
        let package = Package::open(folder.path()).unwrap();
        assert_eq!(package.architecture(), "arm64");
        let [program, definition, template] = package.uploads("code");
        assert_eq!(program.key, format!("pomona/{}/lambda.zip", sha256(b"zip")));
        let value: Value = serde_json::from_slice(&template.body).unwrap();
        assert_eq!(value["Resources"]["A"]["CodeUri"], format!("s3://code/{}", program.key));
        assert_eq!(value["Resources"]["B"]["DefinitionUri"], format!("s3://code/{}", definition.key));
    }

    #[test]
    fn parameters_are_in_the_order_of_the_console() {
        let folder = tempfile::tempdir().unwrap();
        package(folder.path());
        let parameters = Package::open(folder.path()).unwrap().parameters();
        let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        assert_eq!(names, ["Size", "Bucket"]);
        assert_eq!((parameters[0].default.as_str(), parameters[0].values.len()), ("8", 2));
    }

    #[test]
    fn a_folder_without_a_package_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Package::open(folder.path()).unwrap_err();
        assert!(error.is(ErrorKind::StackNoPackage) && error.to_string().contains("template.json"), "{error}");
        package(folder.path());
        std::fs::write(folder.path().join(TEMPLATE), "{\"Parameters\": {}}").unwrap();
        assert!(Package::open(folder.path()).unwrap_err().is(ErrorKind::StackNoPackage));
        let error = Package::beside(&folder.path().join("bin/pomona")).unwrap_err();
        assert!(error.to_string().contains("share/pomona/aws"), "{error}");
    }
}
