/* SPDX-License-Identifier: MIT
 * activations.h - sigmoid and tanh of a vector, as quotients, so that a cell can join two of them into one division
 * (division is two thirds of their cost: joint ones make an LSTM cell cost 3 of them instead of 5). Part of body.h.
 *
 * Both rest on e^x - 1 = 2^k (p + 1) - 1 with x = k ln2 + r, |r| <= ln2/2, p = r + r^2 q(r); the coefficients of q are
 * minimax fits of (e^r - 1 - r) / r^2, weighted for the error relative to e^r - 1. ln2 is split in two so that
 * k * LN2_HIGH is exact. Adding ROUND leaves the nearest integer k in the low bits of the sum. */

#if FRNN_WIDE
#define ROUND 0x1.8p52
#define ROUND_BITS 0x4338000000000000
#define LN2_HIGH 0x1.62e42fee00000p-1
#define LN2_LOW 0x1.a39ef35793c76p-33
#define EXPONENT_BIAS 1023
#define MANTISSA 52
#define LIFT 512 /* 2^LIFT keeps a sigmoid's tail above the subnormals until the last multiplication */
#define LIFT_BACK 0x1p-512
#define SIGMOID_END -746.0 /* e^x is 0 below */
#define TANH_END -38.2     /* e^x - 1 is -1 below */
#else
#define ROUND 0x1.8p23f
#define ROUND_BITS 0x4b400000
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define EXPONENT_BIAS 127
#define MANTISSA 23
#define LIFT 64
#define LIFT_BACK 0x1p-64f
#define SIGMOID_END -104.0f
#define TANH_END -18.1f
#endif

#if FRNN_WIDE
static const real q_coefficients[] = {2.087532664867273762e-9,
                                      2.5109024681483620756e-8,
                                      2.7557402783785293269e-7,
                                      2.7557244253519698595e-6,
                                      0.000024801587172219159292,
                                      0.0001984126988607417229,
                                      0.0013888888888962611549,
                                      0.0083333333333216538575,
                                      0.041666666666666508137,
                                      0.16666666666666676547,
                                      0.5};
#else
static const real q_coefficients[] = {0x1.6bebfap-10f, 0x1.1227b0p-7f, 0x1.555674p-5f, 0x1.5554b0p-3f, 0x1.fffffep-2f};
#endif

typedef struct quotient {
    vec num, den;
} quotient;

INLINE vec negative_magnitude(vec x) { return (vec)((ivec)x | (ivec)all((real)-0.0)); }
INLINE vec magnitude(vec x) { return (vec)((ivec)x & ~(ivec)all((real)-0.0)); }
INLINE vec sign_of(vec x) { return (vec)((ivec)x & (ivec)all((real)-0.0)); }
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
INLINE vec power_of_two(ivec k) { return (vec)((k + all_bits(EXPONENT_BIAS)) << MANTISSA); }

/* p of the above, and k. */
INLINE vec reduced_expm1(vec x, ivec *k)
{
    vec n = fmadd(x, all((real)1.44269504088896340736), all(ROUND));
    *k = (ivec)n - all_bits(ROUND_BITS);
    n = n - all(ROUND);
    vec r = fmadd(n, all(-LN2_LOW), fmadd(n, all(-LN2_HIGH), x));
    vec q = all(q_coefficients[0]);
    UNROLL for (int i = 1; i < (int)(sizeof q_coefficients / sizeof *q_coefficients); i++)
        q = fmadd(q, r, all(q_coefficients[i]));
    return fmadd(r * r, q, r);
}

/* 1 / (1 + z) for x >= 0 and z / (1 + z) below, with z = e^-|x|: no overflow, and no cancellation in the tail. */
INLINE quotient sigmoid_of(vec x)
{
    ivec k;
    vec p = reduced_expm1(max(all(SIGMOID_END), negative_magnitude(x)), &k);
    vec scale = power_of_two(k + all_bits(LIFT));
    vec z = fmadd(scale, p, scale) * all(LIFT_BACK);
    return (quotient){choose(x < all(0), z, all(1)), z + all(1)};
}

/* |tanh x| = -e / (e + 2) with e = e^(-2|x|) - 1; e + 2 comes from p as e does, or e's rounding would count twice. */
INLINE quotient tanh_of(vec x)
{
    ivec k;
    vec y = negative_magnitude(x);
    vec p = reduced_expm1(max(all(TANH_END), y + y), &k);
    vec scale = power_of_two(k);
    vec e = fmadd(scale, p, scale - all(1));
    return (quotient){(vec)((ivec)magnitude(e) | (ivec)sign_of(x)), fmadd(scale, p, scale + all(1))};
}

INLINE vec sigmoid_vec(vec x)
{
    quotient s = sigmoid_of(x);
    return s.num / s.den;
}

INLINE vec tanh_vec(vec x)
{
    quotient t = tanh_of(x);
    return t.num / t.den;
}

#undef ROUND
#undef ROUND_BITS
#undef LN2_HIGH
#undef LN2_LOW
#undef EXPONENT_BIAS
#undef MANTISSA
#undef LIFT
#undef LIFT_BACK
#undef SIGMOID_END
#undef TANH_END
