"""Commands of contributors: submit, measure, verify, reproduce, dispute, train."""
