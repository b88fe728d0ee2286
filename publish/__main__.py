"""`python -m smcl.publish`: see [`smcl.publish.upload`]."""

from .upload import main

if __name__ == "__main__":
    main()
