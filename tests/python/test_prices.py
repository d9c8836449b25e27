"""prices/make.py, on files in the form of AWS's price lists. Their prices are made up."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT


def offer(*products):
    """A price list file: usage type, tiers of (first unit, dollars), and other attributes."""
    document = {"formatVersion": "v1.0", "products": {}, "terms": {"OnDemand": {}}}
    for number, (usage, tiers, attributes) in enumerate(products):
        sku = f"SKU{number}"
        document["products"][sku] = {"sku": sku, "attributes": {"usagetype": usage, **attributes}}
        dimensions = {f"{sku}.T.{i}": {"beginRange": str(first), "endRange": "Inf", "unit": "x", "pricePerUnit": {"USD": f"{dollars:.10f}"}}
                      for i, (first, dollars) in enumerate(tiers)}
        document["terms"]["OnDemand"][sku] = {f"{sku}.T": {"priceDimensions": dimensions}}
    return document


def write(folder, service, region, *products):
    (folder / service).mkdir(exist_ok=True)
    (folder / service / f"{region}.json").write_text(json.dumps(offer(*products)))


def make(folder, *args):
    table = folder / "aws.json"
    table.write_text((ROOT / "prices/aws.json").read_text())
    done = subprocess.run([sys.executable, ROOT / "prices/make.py", folder, "--table", table, *args], capture_output=True, text=True)
    return done, json.loads(table.read_text())


def test_prices_are_those_of_the_first_tier_that_costs_something(tmp_path):
    write(tmp_path, "AWSLambda", "eu-north-1",
          ("EUN1-Lambda-GB-Second", [(6_000_000_000, 0.000015), (0, 0.0000166667)], {}),
          ("EUN1-Lambda-GB-Second-ARM", [(0, 0.0000133334)], {}), ("EUN1-Request", [(0, 0.0000002)], {}),
          ("EUN1-Lambda-Edge-Request", [(0, 0.0000006)], {}), ("EUN1-Lambda-Provisioned-GB-Second", [(0, 0.1)], {}))
    write(tmp_path, "awskms", "eu-north-1", ("eu-north-1-KMS-Requests", [(0, 0.000003)], {}))
    write(tmp_path, "AmazonStates", "eu-north-1", ("EUN1-StateTransition", [(0, 0), (4_000, 0.000025)], {}))
    write(tmp_path, "AmazonS3", "eu-north-1",
          ("EUN1-Requests-Tier1", [(0, 0.000005)], {}), ("EUN1-TimedStorage-ByteHrs", [(0, 0.023)], {"volumeType": "Standard"}),
          ("EUN1-TimedStorage-ByteHrs", [(0, 0.5)], {"volumeType": "Other"}))
    machine = {"operatingSystem": "Linux", "preInstalledSw": "NA", "tenancy": "Shared", "capacitystatus": "Used"}
    write(tmp_path, "AmazonEC2", "eu-north-1", ("EUN1-BoxUsage:m5.xlarge", [(0, 0.204)], machine),
          ("EUN1-BoxUsage:m5.xlarge", [(0, 0.4)], machine | {"operatingSystem": "Windows"}))
    write(tmp_path, "ElasticMapReduce", "eu-north-1", ("EUN1-BoxUsage:m5.xlarge", [(0, 0.048)], {}))
    done, table = make(tmp_path, "--date", "2030-01-02")
    assert done.returncode == 0, done.stderr
    row = table["regions"]["eu-north-1"]
    assert table["date"] == "2030-01-02"
    assert row["lambda_x86_64_gb_second"] == 0.0000166667 and row["lambda_arm64_gb_second"] == 0.0000133334
    assert row["lambda_million_requests"] == 0.2 and row["states_thousand_transitions"] == 0.025
    assert row["s3_thousand_puts"] == 0.005 and row["s3_gb_month"] == 0.023
    assert row["kms_ten_thousand_requests"] == 0.03
    assert row["emr_node_hour"] == pytest.approx(0.252)
    # What the files do not have: nothing of that product, or no file of that service.
    assert row["s3_thousand_gets"] is None and row["logs_gb"] is None
    # The other regions are as they were, and all rows have the same fields, which the program reads.
    before = json.loads((ROOT / "prices/aws.json").read_text())["regions"]
    assert {region: table["regions"][region] for region in before} == before
    assert row.keys() == before["us-east-1"].keys()


def test_two_prices_of_one_product_are_an_error(tmp_path):
    write(tmp_path, "AWSLambda", "eu-north-1", ("EUN1-Request", [(0, 0.1)], {}), ("EUN1-Request", [(0, 0.2)], {}))
    done, _ = make(tmp_path)
    assert done.returncode != 0 and "several prices" in done.stderr


def test_an_empty_folder_is_an_error(tmp_path):
    done, _ = make(tmp_path)
    assert done.returncode != 0 and "SERVICE/REGION.json" in done.stderr
