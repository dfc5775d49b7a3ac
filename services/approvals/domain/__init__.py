"""The rules of approvals: pure functions over values; no I/O.

lives        states of requests, steps and rules         rules        what a rule says, and whether it matches
routes       which rules a request takes, and why        people       who is asked: rules' approvers as users and roles
seats        the steps of a request, and who sits there  panels       deciding
delegations  who decides for whom                        hours        deadlines, in business hours where wanted
"""
