"""transport/by_value: classes of a script travel, and come back as themselves."""

import enum
import pickle

from cypar.transport import importable
from cypar.transport.serialize import dumps, loads

# As if defined in a script, whatever pytest put on sys.path.
importable.distrust(__name__)


class Account:
    rate = 2

    def __init__(self, money):
        self.money = money

    def earn(self):
        return self.money * self.rate

    def __private(self):
        return self.money

    def private_method(self):
        return self.__private


class Color(enum.Enum):
    RED = 1


PAY = """
account = loads(sent)
account.money += 1
answer = dumps_result([account, type(account)])
"""


def test_instances_come_back_as_the_same_class(in_worker):
    account, cls = loads(in_worker(dumps(Account(1)), PAY))
    assert cls is Account
    assert type(account) is Account
    assert account.money == 2
    # its methods are still this module's, and not copies from the worker
    assert Account.earn.__globals__ is globals()


def test_enum_members_come_back_as_the_same_object(in_worker):
    assert loads(in_worker(dumps(Color.RED), "answer = dumps_result(loads(sent))")) is (
        Color.RED
    )


def test_results_do_not_carry_the_class(in_worker):
    assert len(in_worker(dumps(Account(1)), PAY)) < 200


def test_classes_made_in_the_worker_come_by_value(in_worker):
    body = """
    class Made:
        def get(self):
            return self.x
    made = Made()
    made.x = 5
    answer = dumps_result(made)
    """
    assert loads(in_worker(b"", body)).get() == 5


def test_class_attributes_follow_the_parent(in_worker):
    class Setting:
        unit = "m"
        scale = 1

    first = dumps(Setting())
    Setting.scale = 2
    del Setting.unit
    second = dumps(Setting())
    body = """
    import pickle
    one, two = pickle.loads(sent)
    values = [loads(one).scale]
    values += [loads(two).scale, hasattr(loads(two), "unit"), loads(one).unit]
    answer = dumps_result(values)
    """
    assert loads(in_worker(pickle.dumps([first, second]), body)) == [1, 2, False, "m"]


def test_loading_here_what_was_sent_from_here_changes_no_class():
    earn = Account.earn
    assert type(loads(dumps(Account(1)))) is Account
    assert Account.earn is earn
